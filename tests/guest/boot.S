# Berth's own guest: a boot sector that counts.
#
# Five times a second it raises a counter, prints it on the first serial port, and writes it to sector 1 of its own
# disk, so that tests see from outside that it runs, that a migration lost nothing, and that two copies wrote: before
# each write it reads the sector back, and when the counter there is not the one it wrote, it counts a stranger.
#
#   sector 1:  "BERTHCNT", counter (32 bit), strangers (32 bit), boots after the first (32 bit)
#   sector 16: a port (16 bit) and a byte for it: what the guest is to do of its own accord, done once; 0 = nothing
#   sector 0, byte 504 (32 bit): the sector it counts in, where that is not 1
#   sector 0, byte 508: 1 = deaf, the guest ignores the power button
#   sector 0, byte 509: 1 = eager, it counts as fast as it can, and does nothing else
#
# It powers off when the ACPI power button is pressed (PIIX4: PM1a status at the PM base, bit 8; PM1a control at base+4).
    .code16
    .globl _start
    .set BUFFER, 0x8000          # the sector's image
    .set PMBASE, 0x600           # where SeaBIOS puts the PIIX4's power management registers

_start:
    ljmp $0, $begin
begin:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, drive
    sti
    movw $PMBASE+2, %dx
    movw $0x100, %ax
    outw %ax, %dx                # QEMU notes the power button only when it is enabled
    xorl %ebp, %ebp              # the counter as written last
    xorl %edi, %edi              # strangers seen
    # Continue where the disk is.
    call to_counter
    call read_sector
    cmpl $0x54524542, BUFFER     # "BERT"
    jne again
    movl BUFFER+8, %ebp
    movl BUFFER+12, %edi
    incl BUFFER+16               # booted once more
    movb $0x43, %ah
    call transfer

again:
    cmpb $1, eager
    je button
    # Four ticks of the BIOS clock (18.2 a second), asleep between them.
    movw $4, %cx
nap:
    hlt
    loop nap

    # What it is told to do of its own accord: a byte to a port. It shuts down, resets, panics or is bitten by that.
    movl $16, sector
    call read_sector
    movw BUFFER, %dx
    movb BUFFER+2, %bl
    movw $0, BUFFER
    testw %dx, %dx
    jz obeyed
    pushw %bx
    pushw %dx
    movb $0x43, %ah              # noted as done before it is: what boots again does not do it again
    call transfer
    popw %dx
    popw %ax
    cmpw $PMBASE, %dx
    je power_off                 # QEMU takes no single byte there
    outb %al, %dx
obeyed:
    call to_counter

button:
    cmpb $1, deaf
    je count
    movw $PMBASE, %dx
    inw %dx, %ax
    testw $0x100, %ax
    jnz power_off

count:
    call read_sector
    cmpl $0x54524542, BUFFER
    jne fresh
    cmpl BUFFER+8, %ebp
    je fresh
    incl %edi
    movl BUFFER+8, %eax
    cmpl %ebp, %eax
    jbe fresh
    movl %eax, %ebp
fresh:
    incl %ebp
    movl $0x54524542, BUFFER
    movl $0x544e4348, BUFFER+4   # "HCNT"
    movl %ebp, BUFFER+8
    movl %edi, BUFFER+12
    movb $0x43, %ah
    call transfer
    call print
    jmp again

power_off:
    movw $PMBASE, %dx
    movw $0x100, %ax
    outw %ax, %dx                # the button is taken note of
    movw $PMBASE+4, %dx
    movw $0x2000, %ax            # SLP_EN, sleep type 0: off on the PIIX4
    outw %ax, %dx
stop:
    hlt
    jmp stop

to_counter:
    movl counter_sector, %eax
    movl %eax, sector
    ret

read_sector:
    movb $0x42, %ah
transfer:                        # ah = 0x42 reads, 0x43 writes; through the BIOS, by linear address
    pushl %edi
    movb $0, %al
    movb drive, %dl
    movw $packet, %si
    int $0x13
    popl %edi
    ret

print:                           # the counter in hexadecimal and a line feed
    movl %ebp, %eax
    movw $8, %cx
digit:
    roll $4, %eax
    pushl %eax
    andb $15, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe put
    addb $7, %al
put:
    movw $0x3f8, %dx
    outb %al, %dx
    popl %eax
    loop digit
    movb $10, %al
    movw $0x3f8, %dx
    outb %al, %dx
    ret

    .balign 4
packet:
    .byte 16, 0
    .word 1                      # one sector
    .word BUFFER, 0              # to this address
sector:
    .long 1, 0                   # from this sector
drive:
    .byte 0

    .org 504
counter_sector:
    .long 1
    # 508
deaf:
    .byte 0
eager:
    .byte 0
    .word 0xaa55
