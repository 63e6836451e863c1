#pragma once

#include <string>

namespace virga::boot_sectors {

/// First sectors of disks for guests that do one thing; their source is tests/tools/boot_sectors.S.
inline std::string sector(const char* hex) {
  std::string made;
  for (; hex[0] != '\0'; hex += 2)
    made += static_cast<char>(std::stoi(std::string(hex, 2), nullptr, 16));
  made.resize(510, '\0');
  return made + "\x55\xaa";
}

inline std::string idle() { return sector("f4ebfd"); }
inline std::string console() { return sector("baf803b075eeb070eeb00aeef4ebfd"); }
inline std::string reset() { return sector("baf90cb006eef4ebfd"); }
inline std::string power_off() { return sector("ba0406b80020eff4ebfd"); }
inline std::string watchdog() { return sector("ba4304b00eeef4ebfd"); }
inline std::string panic() {
  return sector(
      "fa31c08ed80f0116477c0f20c00c010f22c0bb08008edb24fe0f22c0baf80c66b81010008066efbafc0c66ed6683"
      "e0f067"
      "c60001f4ebfd0000000000000000ffff00000092cf000f00377c0000");
}
inline std::string fill_disk() {
  return sector(
      "31c08ed8b80043b280be197ccd13668306217c40ebeef4ebfd10004000007c00000800000000000000");
}
inline std::string dirty() {
  return sector(
      "b800108ec031ffbb0a00b9ffffe2fe4b75f826ff0581c7001075ec0500103d009072e0ebdbf4ebfd");
}
inline std::string second_disk() {
  return sector(
      "31c08ed88ec0fcb442b281be3b7ccd137226be0080b90020baf803ac3c0a74083c2072053c7e7701eee2f0830643"
      "7c10813e437c000272cff4ebfd10001000008000000000000000000000");
}
inline std::string memory() {
  return sector(
      "fa31c08ed889c56631c0b90600bb00108ec32666a3100081c3000181fb009075ef6689c6e3026640bb00108ec326"
      "66393610007533e3052666a3100081c3000181fb009075e56689c731c0e670e47139e8741089c5baf803b063e303"
      "49b077eeb00aee6689f8ebb9baf803b06ceeb00aeef4ebfd");
}

}  // namespace virga::boot_sectors
