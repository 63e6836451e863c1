"""A disk that boots a Linux kernel by itself, as images of clouds do: boot sector, kernel, initial RAM disk."""

import struct

SECTOR = 512
# SEED_linux of boot_sectors.S.
LOADER = bytes.fromhex(
    "31c08ed88ec08ed0bc007cbfc07d668b4d046685c9745d6683f940760666b940000000890e967c668b0566a39c7c66010d66294d0466"
    "60b442b280be947ccd1366610f828e00668b4508a3be7c66c1e810a2c07c8826c37c66c1e1086660b487bea47ccd156661726b67668d"
    "040966014508eb9a83c70c81fff07d7291fab800908ed88ec08ee08ee88ed0bc00d0ea00002090901000400000000010000000000000"
    "000000000000000000000000000000000000ffff000001930000ffff00000093000000000000000000000000000000000000f4ebfd")
TABLE_AT = 448
SETUP, COMMAND_LINE, KERNEL, RAM_DISK = 0x90000, 0x9e000, 0x100000, 0xa000000  # where the loader puts each


def padded(data):
    return data + bytes(-len(data) % SECTOR)


def boot_disk(kernel, ram_disk, command_line):
    """The bytes of a raw disk. The guest needs 256 MiB of memory. Source: Linux Documentation/x86/boot.rst."""
    setup_bytes = ((kernel[0x1f1] or 4) + 1) * SECTOR
    setup = bytearray(kernel[:setup_bytes])
    setup[0x210] = 0xff        # a loader without a number
    setup[0x211] |= 0x80       # heap_end_ptr is right
    struct.pack_into("<II", setup, 0x218, RAM_DISK, len(ram_disk))
    struct.pack_into("<H", setup, 0x224, 0xd000 - 0x200)
    struct.pack_into("<I", setup, 0x228, COMMAND_LINE)
    parts = ((bytes(setup), SETUP), (command_line.encode() + b"\0", COMMAND_LINE), (kernel[setup_bytes:], KERNEL),
             (ram_disk, RAM_DISK))
    table, disk = b"", b""
    for data, address in parts:
        data = padded(data)
        table += struct.pack("<III", 1 + len(disk) // SECTOR, len(data) // SECTOR, address)
        disk += data
    return LOADER.ljust(TABLE_AT, b"\0") + table.ljust(510 - TABLE_AT, b"\0") + b"\x55\xaa" + disk
