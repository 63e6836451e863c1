/* First sectors of disks for guests that do one thing. GNU as, 16-bit.
   Bytes of a seed: gcc -c -DSEED_panic boot_sectors.S && objcopy -O binary -j .text boot_sectors.o panic.bin */
.intel_syntax noprefix
.code16
.text
start:

#ifdef SEED_console         /* writes "up" and a line feed to the serial port */
    mov dx, 0x3f8
    mov al, 'u'
    out dx, al
    mov al, 'p'
    out dx, al
    mov al, 10
    out dx, al
#endif

#ifdef SEED_reset           /* resets the machine */
    mov dx, 0xcf9
    mov al, 6
    out dx, al
#endif

#ifdef SEED_power_off       /* ACPI S5 of q35 */
    mov dx, 0x604
    mov ax, 0x2000
    out dx, ax
#endif

#ifdef SEED_watchdog        /* arms the ib700 for 2 s and forgets it */
    mov dx, 0x443
    mov al, 14
    out dx, al
#endif

#ifdef SEED_panic           /* tells the device at 00:02.0 that the guest panicked */
    cli
    xor ax, ax
    mov ds, ax
    lgdt [0x7c00 + table_end - start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 8
    mov ds, bx
    and al, 0xfe
    mov cr0, eax
    mov dx, 0xcf8
    mov eax, 0x80001010
    out dx, eax
    mov dx, 0xcfc
    in eax, dx
    and eax, 0xfffffff0
    mov byte ptr [eax], 1
#endif

#ifdef SEED_dirty           /* writes 512 KiB page after page, about 128 ms a round, for ever */
first:
    mov ax, 0x1000
segment:
    mov es, ax
    xor di, di
page:
    mov bx, 10
wait:
    mov cx, 0xffff
spin:
    loop spin
    dec bx
    jnz wait
    inc word ptr es:[di]
    add di, 0x1000
    jnz page
    add ax, 0x1000
    cmp ax, 0x9000
    jb segment
    jmp first
#endif

#ifdef SEED_fill_disk       /* writes 32 KiB after 32 KiB */
    xor ax, ax
    mov ds, ax
next:
    mov ax, 0x4300
    mov dl, 0x80
    mov si, 0x7c00 + packet - start
    int 0x13
    add dword ptr [0x7c00 + packet - start + 8], 64
    jmp next
#endif

#ifdef SEED_memory          /* counts up in 128 pages for 5 to 6 s, then only reads them. Each second it says "w" while it
                               writes and "c" when it compares; "l" = a page has lost what was written, then nothing */
    cli
    xor ax, ax
    mov ds, ax
    mov bp, ax
    xor eax, eax
    mov cx, 6
    mov bx, 0x1000
zero:
    mov es, bx
    mov es:[16], eax
    add bx, 0x100
    cmp bx, 0x9000
    jne zero
round:
    mov esi, eax            /* what each page holds */
    jcxz compare
    inc eax                 /* what it gets */
compare:
    mov bx, 0x1000
page:
    mov es, bx
    cmp es:[16], esi
    jne lost
    jcxz kept
    mov es:[16], eax
kept:
    add bx, 0x100
    cmp bx, 0x9000
    jne page
    mov edi, eax
    xor ax, ax
    out 0x70, al
    in al, 0x71             /* the second of the clock */
    cmp ax, bp
    je same
    mov bp, ax
    mov dx, 0x3f8
    mov al, 'c'
    jcxz say
    dec cx
    mov al, 'w'
say:
    out dx, al
    mov al, 10
    out dx, al
same:
    mov eax, edi
    jmp round
lost:
    mov dx, 0x3f8
    mov al, 'l'
    out dx, al
    mov al, 10
    out dx, al
#endif

#ifdef SEED_second_disk     /* writes the printable bytes of the second disk's first 256 KiB to the serial port */
    xor ax, ax
    mov ds, ax
    mov es, ax
    cld
more:
    mov ah, 0x42
    mov dl, 0x81
    mov si, 0x7c00 + request - start
    int 0x13
    jc idle
    mov si, 0x8000
    mov cx, 16 * 512
    mov dx, 0x3f8
letter:
    lodsb
    cmp al, 10
    je print
    cmp al, 32
    jb skip
    cmp al, 126
    ja skip
print:
    out dx, al
skip:
    loop letter
    add word ptr [0x7c00 + request - start + 8], 16
    cmp word ptr [0x7c00 + request - start + 8], 512
    jb more
#endif

#ifdef SEED_linux           /* reads what the table at 448 names to where it says, then starts a Linux kernel */
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    mov di, 0x7c00 + 448    /* four entries: first sector, sectors, address; 32 bits each */
piece:
    mov ecx, [di + 4]
    test ecx, ecx
    jz piece_done
    cmp ecx, 64
    jbe small
    mov ecx, 64
small:
    mov [0x7c00 + buffer - start + 2], cx
    mov eax, [di]
    mov [0x7c00 + buffer - start + 8], eax
    add [di], ecx
    sub [di + 4], ecx
    pushad
    mov ah, 0x42
    mov dl, 0x80
    mov si, 0x7c00 + buffer - start
    int 0x13
    popad
    jc idle
    mov eax, [di + 8]
    mov [0x7c00 + moved - start + 0x1a], ax
    shr eax, 16
    mov [0x7c00 + moved - start + 0x1c], al
    mov [0x7c00 + moved - start + 0x1f], ah
    shl ecx, 8              /* 16-bit words of it */
    pushad
    mov ah, 0x87
    mov si, 0x7c00 + moved - start
    int 0x15
    popad
    jc idle
    lea eax, [ecx + ecx]
    add [di + 8], eax
    jmp piece
piece_done:
    add di, 12
    cmp di, 0x7c00 + 496
    jb piece
    cli
    mov ax, 0x9000
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov sp, 0xd000
    .byte 0xea              /* jmp 0x9020:0 */
    .word 0, 0x9020
    .balign 4
buffer:
    .word 16, 64, 0, 0x1000
    .long 0, 0
moved:
    .zero 16
    .word 0xffff, 0
    .byte 1, 0x93, 0, 0     /* from 0x10000 */
    .word 0xffff, 0
    .byte 0, 0x93, 0, 0
    .zero 16
#endif

idle:
    hlt
    jmp idle

#ifdef SEED_panic
table:
    .quad 0, 0x00cf92000000ffff
table_end:
    .word 15
    .long 0x7c00 + table - start
#endif
#ifdef SEED_fill_disk
packet:
    .byte 16, 0
    .word 64, 0x7c00, 0
    .quad 8
#endif
#ifdef SEED_second_disk
request:
    .byte 16, 0
    .word 16, 0x8000, 0
    .quad 0
#endif
