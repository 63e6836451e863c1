#pragma once

#include <map>
#include <string>
#include <vector>

namespace virga::guest {

/// The words `virga.NAME=VALUE` of the kernel's command line, by NAME.
using Settings = std::map<std::string, std::string>;

/// Whole text of a small file of /proc or /sys without its last newline; empty when it cannot be read.
std::string read_text(const std::string& path);

/// Writes `text` into an existing file of /proc or /sys. False when refused.
bool write_text(const std::string& path, const std::string& text);

/// Milliseconds since the kernel started.
long long uptime_ms();

/// One line on the console.
void say(const std::string& line);

/// /proc, /sys, /dev, /dev/pts and /run, and the console as standard input and output.
void mount_file_systems();

/// Reads the settings; needs /proc.
Settings read_settings();

/// Loads the modules that the list file names, one path a line, in that order. One that the kernel refuses is said on
/// the console and skipped.
void load_modules(const std::string& list_path);

/// Brings the loopback up and the network cards in order of their names: the first gets the first address of
/// `virga.ip` (addresses with prefix length, separated by commas), and so on; `virga.gateway` becomes the default
/// route, `virga.dns` and `virga.domain` the resolver and what it searches. A card without an
/// address is left alone. When `virga.ip` is not set at all, or `dhcp`, all of this is asked for by DHCP.
void start_network(const Settings& settings);

/// Starts a program and goes on. Its end is noticed by whoever waits for children.
void start_program(const std::vector<std::string>& arguments);

/// Writes all data out and switches the machine off. Returns only if the kernel refuses.
void power_off(const std::string& reason);

}  // namespace virga::guest
