/* A polling virtio-blk driver: the transport (PCI modern or MMIO v2) and split rings. */
#ifndef VIRTIO_H
#define VIRTIO_H
#include "platform.h"

enum { BIT_MQ = 12, BIT_INDIRECT = 28, BIT_EVENT_IDX = 29, BIT_VERSION_1 = 32 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
enum { MAX_QUEUES = 16, MAX_RING = 1024, MAX_PIECES = 80 };

/* Block features, both ring features and VERSION_1: what this driver can honour. */
#define KNOWN_FEATURES (0xfffffful | 1ul << BIT_INDIRECT | 1ul << BIT_EVENT_IDX | 1ul << BIT_VERSION_1)

/* About eight seconds at 2.5 GHz: longer than any honest answer takes, shorter than the harness waits. */
#define PATIENCE 20000000000ul

struct descriptor { u64 address; u32 length; u16 flags, next; };
struct used_element { u32 id, length; };
struct piece { const volatile void *at; u32 length; u16 writable; };

struct request {
    struct { u32 type, priority; u64 sector; } header;
    volatile u8 *status;
    volatile u8 own_status;
    u32 done, used;
    struct descriptor table[MAX_PIECES] __attribute__((aligned(16)));
};

struct queue {
    struct descriptor table[MAX_RING] __attribute__((aligned(4096)));
    struct { u16 flags, index, ring[MAX_RING + 1]; } avail __attribute__((aligned(4096)));
    struct { u16 flags, index; struct used_element ring[MAX_RING + 1]; } used __attribute__((aligned(4096)));
    struct request *owner[MAX_RING];
    u16 free[MAX_RING], free_count, size, seen, number, event_idx;
};

static struct queue queues[MAX_QUEUES];
static struct { volatile u8 *mmio, *common, *notify, *config; u32 notify_multiplier; } device;
static u64 features_offered, features_acked;
static u32 queue_count, indirect_allowed;

extern u64 table_root[512];

/* Maps the 2 MiB around `address` one to one; only 64-bit BARs lie beyond what is mapped at the start. */
static volatile u8 *map(u64 address)
{
    static u64 pool[16][512] __attribute__((aligned(4096)));
    static u32 taken;
    u64 *table = table_root;
    for (u32 shift = 39; address >> 32 && shift > 21; shift -= 9) {
        u64 *entry = &table[address >> shift & 511];
        if (!(*entry & 1))
            *entry = (u64)pool[taken++] | 3;
        table = (u64 *)(*entry & ~0xffful);
    }
    if (address >> 32)
        table[address >> 21 & 511] = (address & ~0x1ffffful) | 0x83;
    return (volatile u8 *)address;
}

static u8 read8(volatile u8 *at) { return *at; }
static u16 read16(volatile u8 *at) { return *(volatile u16 *)at; }
static u32 read32(volatile u8 *at) { return *(volatile u32 *)at; }
static void write16(volatile u8 *at, u16 v) { *(volatile u16 *)at = v; }
static void write32(volatile u8 *at, u32 v) { *(volatile u32 *)at = v; }

static u32 pci_read(u32 function, u32 at)
{
    outl(0xcf8, 0x80000000 | function << 8 | (at & 0xfc));
    return inl(0xcfc) >> (at & 3) * 8;
}

static void pci_write(u32 function, u32 at, u32 value)
{
    outl(0xcf8, 0x80000000 | function << 8 | (at & 0xfc));
    outl(0xcfc, value);
}

static volatile u8 *pci_region(u32 function, u32 capability)
{
    u32 bar = 0x10 + 4 * (pci_read(function, capability + 4) & 0xff);
    u32 low = pci_read(function, bar);
    u64 base = low & ~15u;
    if ((low & 6) == 4)
        base |= (u64)pci_read(function, bar + 4) << 32;
    return map(base + pci_read(function, capability + 8));
}

static int find_pci(void)
{
    for (u32 function = 0; function < 256; function++) {
        u32 id = pci_read(function, 0);
        if (id != 0x10421af4 && id != 0x10011af4)
            continue;
        pci_write(function, 4, (pci_read(function, 4) & 0xffff) | 6); /* Memory space, bus master. */
        for (u32 at = pci_read(function, 0x34) & 0xff; at; at = pci_read(function, at + 1) & 0xff) {
            u32 head = pci_read(function, at);
            if ((head & 0xff) == 0x11 && option("msix")) /* Enabled, all vectors masked. */
                pci_write(function, at, (head & 0xffff) | 0xc0000000);
            if ((head & 0xff) != 0x09)
                continue;
            switch (head >> 24) {
            case 1: device.common = pci_region(function, at); break;
            case 2:
                device.notify = pci_region(function, at);
                device.notify_multiplier = pci_read(function, at + 16);
                break;
            case 4: device.config = pci_region(function, at); break;
            }
        }
        return device.common && device.notify && device.config;
    }
    return 0;
}

static int try_mmio(u64 address)
{
    volatile u8 *at = map(address);
    if (read32(at) != 0x74726976 || read32(at + 4) != 2 || read32(at + 8) != 2)
        return 0;
    device.mmio = at;
    device.config = at + 0x100;
    return 1;
}

static int find_mmio(void)
{
    for (const char *s = command_line; (s = find_text(s, "virtio_mmio.device="));) {
        const char *address = find_text(s, "@");
        if (address && try_mmio(parse_number(address)))
            return 1;
    }
    for (u32 slot = 0; slot < 24; slot++) /* Where QEMU's microvm puts them. */
        if (try_mmio(0xfeb00000 + slot * 512))
            return 1;
    return 0;
}

static void set_status(u8 value)
{
    if (device.mmio)
        write32(device.mmio + 0x70, value);
    else
        device.common[0x14] = value;
}

static u8 get_status(void) { return device.mmio ? read32(device.mmio + 0x70) : read8(device.common + 0x14); }

static u64 get_features(void)
{
    volatile u8 *select = device.mmio ? device.mmio + 0x14 : device.common;
    volatile u8 *value = device.mmio ? device.mmio + 0x10 : device.common + 4;
    write32(select, 1);
    u64 high = read32(value);
    write32(select, 0);
    return high << 32 | read32(value);
}

static void set_features(u64 features)
{
    volatile u8 *select = device.mmio ? device.mmio + 0x24 : device.common + 8;
    volatile u8 *value = device.mmio ? device.mmio + 0x20 : device.common + 12;
    write32(select, 0);
    write32(value, features);
    write32(select, 1);
    write32(value, features >> 32);
}

static void write_address(volatile u8 *at, const volatile void *address)
{
    write32(at, (u64)address);
    write32(at + 4, (u64)address >> 32);
}

static void notify(struct queue *q)
{
    barrier();
    if (device.mmio) {
        write32(device.mmio + 0x50, q->number);
    } else {
        write16(device.common + 0x16, q->number);
        write16(device.notify + read16(device.common + 0x1e) * device.notify_multiplier, q->number);
    }
}

/* Gives the device one empty ring of at most `wanted` entries; 0 if it has no such queue. */
static int start_queue(struct queue *q, u16 number, u32 wanted)
{
    volatile u8 *at = device.mmio ? device.mmio : device.common;
    if (device.mmio)
        write32(at + 0x30, number);
    else
        write16(at + 0x16, number);
    u32 most = device.mmio ? read32(at + 0x34) : read16(at + 0x18);
    if (!most)
        return 0;
    memset(q, 0, sizeof(*q));
    q->number = number;
    q->event_idx = features_acked >> BIT_EVENT_IDX & 1;
    q->size = wanted < most ? wanted : most;
    if (q->size > MAX_RING)
        q->size = MAX_RING;
    for (u16 i = 0; i < q->size; i++)
        q->free[q->free_count++] = q->size - 1 - i;
    q->avail.flags = 1; /* Polled: no interrupts wanted. */
    if (device.mmio) {
        write32(at + 0x38, q->size);
        write_address(at + 0x80, q->table);
        write_address(at + 0x90, &q->avail);
        write_address(at + 0xa0, &q->used);
        write32(at + 0x44, 1);
    } else {
        write16(at + 0x18, q->size);
        write16(at + 0x1a, option("msix") ? 0 : 0xffff);
        write_address(at + 0x20, q->table);
        write_address(at + 0x28, &q->avail);
        write_address(at + 0x30, &q->used);
        write16(at + 0x1c, 1);
    }
    return 1;
}

/* Resets the device and brings it up again; 0 if it refuses the features. */
static int start_device(u64 wanted, u32 ring, u32 want_queues)
{
    set_status(0);
    while (get_status())
        ;
    set_status(ACKNOWLEDGE | DRIVER);
    features_offered = get_features();
    features_acked = features_offered & wanted;
    set_features(features_acked);
    set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (!(get_status() & FEATURES_OK))
        return 0;
    indirect_allowed = features_acked >> BIT_INDIRECT & 1;
    for (queue_count = 0; queue_count < want_queues; queue_count++)
        if (!start_queue(&queues[queue_count], queue_count, ring))
            break;
    set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    return queue_count > 0;
}

static void fill(struct descriptor *d, const struct piece *p, u32 last, u16 next)
{
    *d = (struct descriptor){(u64)p->at, p->length, (p->writable ? WRITE : 0) | (last ? 0 : NEXT), last ? 0 : next};
}

/* Makes `pieces` available as one request; 0 if the ring has no room for it. */
static int submit(struct queue *q, struct request *r, const struct piece *pieces, u32 n, int indirect)
{
    u16 head, at;
    if (n > MAX_PIECES || q->free_count < (indirect ? 1 : n))
        return 0;
    head = at = q->free[--q->free_count];
    for (u32 i = 0; i < n; i++) {
        u32 last = i + 1 == n;
        u16 next = indirect ? i + 1 : last ? 0 : q->free[--q->free_count];
        fill(indirect ? &r->table[i] : &q->table[at], &pieces[i], last, next);
        at = next;
    }
    if (indirect)
        q->table[head] = (struct descriptor){(u64)r->table, n * 16, INDIRECT, 0};
    q->owner[head] = r;
    r->done = r->used = 0;
    u16 old = q->avail.index;
    q->avail.ring[old % q->size] = head;
    barrier();
    *(volatile u16 *)&q->avail.index = old + 1;
    barrier();
    /* With event index the device says at which entry it wants to be kicked; else by a flag. */
    u16 event = *(volatile u16 *)&q->used.ring[q->size];
    if (q->event_idx ? event == old : !(*(volatile u16 *)&q->used.flags & 1))
        notify(q);
    return 1;
}

static void reap(struct queue *q)
{
    while (q->seen != *(volatile u16 *)&q->used.index) {
        barrier();
        struct used_element e = q->used.ring[q->seen++ % q->size];
        struct request *r = e.id < q->size ? q->owner[e.id] : 0;
        if (!r) {
            say("error used id=%u was not in flight", (u64)e.id);
            continue;
        }
        q->owner[e.id] = 0;
        r->used = e.length;
        r->done = 1;
        for (u16 at = e.id;; at = q->table[at].next) {
            q->free[q->free_count++] = at;
            if (!(q->table[at].flags & NEXT))
                break;
        }
    }
}

/* Waits until the request has been used; 0 if the device stays silent. */
static int await(struct queue *q, struct request *r, u64 patience)
{
    for (u64 start = ticks(); !r->done;) {
        asm volatile("pause");
        reap(q);
        if (!r->done && ticks() - start > patience)
            return 0;
    }
    return 1;
}

#endif
