/* Reads 4 KiB at random places of a disk, one read after the other and past the page cache: what no tool of busybox
 * does without a new process for every read. A program for Linux on x86-64, without a C library.
 *
 * usage: reads DEVICE COUNT SEED
 */
enum { OPEN = 2, LSEEK = 8, PREAD = 17, EXIT = 60 };
enum { O_DIRECT = 0x4000, SEEK_END = 2, BLOCK_BYTES = 4096 };

static char block[BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));

static long call(long number, long first, long second, long third, long fourth)
{
    register long fourth_register __asm__("r10") = fourth;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(third), "r"(fourth_register)
                     : "rcx", "r11", "memory");
    return result;
}

static unsigned long number(const char *text)
{
    unsigned long value = 0;
    for (; *text; text++)
        value = value * 10 + (unsigned long)(*text - '0');
    return value;
}

static int reads(const char *device, unsigned long count, unsigned long seed)
{
    unsigned long state = seed * 0x9e3779b97f4a7c15ul;
    long disk = call(OPEN, (long)device, O_DIRECT, 0, 0);
    if (disk < 0)
        return 2;
    long blocks = call(LSEEK, disk, 0, SEEK_END, 0) / BLOCK_BYTES;
    if (blocks <= 0)
        return 3;
    while (count--) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        long offset = (long)((state >> 33) % (unsigned long)blocks) * BLOCK_BYTES;
        if (call(PREAD, disk, (long)block, BLOCK_BYTES, offset) != BLOCK_BYTES)
            return 4;
    }
    return 0;
}

/* The stack of a new program: the number of arguments, then pointers to them. */
__attribute__((used)) static void begin(long *stack)
{
    const char **arguments = (const char **)(stack + 1);
    int status = 1;
    if (stack[0] == 4)
        status = reads(arguments[1], number(arguments[2]), number(arguments[3]));
    call(EXIT, status, 0, 0, 0);
}

__asm__(".globl _start\n"
        "_start: mov %rsp, %rdi\n"
        "and $-16, %rsp\n"
        "call begin\n");
