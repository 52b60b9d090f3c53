/* What the bare-metal guest has instead of an operating system: ports, a serial line, its command line
 * and a way out. */
#ifndef PLATFORM_H
#define PLATFORM_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define barrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static inline void outb(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { asm volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u64 ticks(void) { u32 lo, hi; asm volatile("rdtsc" : "=a"(lo), "=d"(hi)); return (u64)hi << 32 | lo; }

/* The compiler may call these two even in a freestanding program. */
void *memset(void *to, int value, u64 n)
{
    void *start = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, u64 n)
{
    void *start = to;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return start;
}

static int same(const void *a, const void *b, u64 n)
{
    const u8 *x = a, *y = b;
    for (u64 i = 0; i < n; i++)
        if (x[i] != y[i])
            return 0;
    return 1;
}

static void put(char c)
{
    while (!(inb(0x3fd) & 0x20))
        ;
    outb(0x3f8, c);
}

static void put_number(u64 value, u32 base)
{
    char digits[24];
    u32 n = 0;
    do
        digits[n++] = "0123456789abcdef"[value % base];
    while (value /= base);
    while (n)
        put(digits[--n]);
}

/* Prints one line: %s a string, %u decimal, %x hexadecimal; every number is a u64. */
static void say(const char *format, ...)
{
    __builtin_va_list args;
    __builtin_va_start(args, format);
    for (const char *s = "VGX: "; *s; s++)
        put(*s);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
        } else if (*++format == 's') {
            for (const char *s = __builtin_va_arg(args, const char *); *s; s++)
                put(*s);
        } else {
            put_number(__builtin_va_arg(args, u64), *format == 'x' ? 16 : 10);
        }
    }
    put('\n');
    __builtin_va_end(args);
}

/* Every way out that some VMM knows, best first: QEMU's debug exit, the ACPI register of
 * cloud-hypervisor, the keyboard controller's reset line, and a triple fault. */
static void __attribute__((noreturn)) leave(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) none = {0, 0};
    outl(0xf4, 0);
    outb(0x600, 0x34);
    outb(0x64, 0xfe);
    asm volatile("lidt %0; int3" ::"m"(none));
    for (;;)
        asm volatile("hlt");
}

static const char *command_line = "";

/* The text after `key` on the command line, or null. */
static const char *find_text(const char *from, const char *key)
{
    for (; *from; from++) {
        u32 n = 0;
        while (key[n] && from[n] == key[n])
            n++;
        if (!key[n])
            return from + n;
    }
    return 0;
}

static u64 parse_number(const char *s)
{
    u64 value = 0, base = 10;
    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    for (;; s++) {
        u64 digit = *s >= '0' && *s <= '9' ? *s - '0' : *s >= 'a' && *s <= 'f' ? *s - 'a' + 10 : 99;
        if (digit >= base)
            return value;
        value = value * base + digit;
    }
}

/* The place just after a whole word `name` in the comma-separated list `vgx=…`, or null. */
static const char *option(const char *name)
{
    const char *s = find_text(command_line, "vgx=");
    while (s && *s && *s != ' ') {
        u32 n = 0;
        while (name[n] && s[n] == name[n])
            n++;
        if (!name[n] && (s[n] == ',' || s[n] == '=' || s[n] == ' ' || !s[n]))
            return s + n;
        while (*s && *s != ' ' && *s++ != ',')
            ;
    }
    return 0;
}

static u64 option_number(const char *name, u64 otherwise)
{
    const char *s = option(name);
    return s && *s == '=' ? parse_number(s + 1) : otherwise;
}

#endif
