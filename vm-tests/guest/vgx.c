/* A bare-metal guest that drives one virtio-blk disk by polling and reports on the serial line. It asks
 * what no operating system asks: refused requests, odd descriptor framings, small rings, broken rings.
 *
 * It runs in QEMU (q35, microvm), cloud-hypervisor and Firecracker. Options, as `vgx=a,b=1` on the
 * kernel command line:
 *
 *   features=MASK   virtio features to accept, of those offered     (default: all it knows)
 *   ringsize=N      entries per ring, at most what is offered        (default 128)
 *   queues=N        queues to set up; reads go to all in turn        (default 1)
 *   indirect=0      never use indirect descriptors
 *   at=SECTOR       64 sectors from here are the reference for `case` lines
 *   nohash          do not read the whole disk
 *   hostile         also make broken rings, one device reset each
 *   soak=N          also N rounds of 16 reads in flight, for a test that disturbs the device meanwhile
 *   carry=N         instead of unusual requests, N rounds of reads into many buffers, each looked at a round later, for a test
 *                   that moves the guest meanwhile; needs 64 MiB of memory
 *   msix            enable MSI-X with every vector masked
 *
 * The words of the report are read by vm-tests/src/vgx.rs. */
#include "virtio.h"

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13, SECURE_ERASE = 14 };
enum { SLOTS = 16, CHUNK = 64 * 1024, REFERENCE_SECTORS = 64, REFERENCE = REFERENCE_SECTORS * 512 };
enum { UNTOUCHED = 0xee, POISON = 0xa5 };

static struct request requests[SLOTS];
static u8 buffers[SLOTS][CHUNK + 64] __attribute__((aligned(4096)));
static u8 reference[REFERENCE] __attribute__((aligned(4096)));
static u64 capacity, reference_at;
static u32 ring_size, queues_wanted;
static u64 features_wanted;

/* How one request is cut into descriptors. */
struct framing {
    const char *name;
    u32 header_cut;   /* The header is two pieces, cut here; 0: one piece; 16: sixteen pieces. */
    u32 cuts[4];      /* The data is pieces of these lengths in turn; the first 0: one piece. */
    u32 status_inside; /* The status byte is the last byte of the last data descriptor. */
};

static const struct framing PLAIN = {"plain", 0, {0}, 0};

static u32 add(struct piece *p, u32 n, const volatile void *at, u32 length, u32 writable)
{
    p[n] = (struct piece){at, length, writable};
    return n + 1;
}

static u32 frame(struct piece *p, struct request *r, u8 *data, u32 length, u32 writable, const struct framing *f)
{
    const u8 *header = (const u8 *)&r->header;
    u32 n = 0, cut = f->header_cut;
    if (cut == 16) {
        for (u32 i = 0; i < 16; i++)
            n = add(p, n, header + i, 1, 0);
    } else {
        n = cut ? add(p, n, header, cut, 0) : n;
        n = add(p, n, header + cut, 16 - cut, 0);
    }
    r->own_status = UNTOUCHED;
    r->status = f->status_inside ? &data[length] : &r->own_status;
    *r->status = UNTOUCHED;
    for (u32 done = 0, turn = 0; done < length && n < MAX_PIECES - 1;) {
        u32 piece = f->cuts[turn++ % COUNT(f->cuts)];
        if (!piece || piece > length - done)
            piece = length - done;
        n = add(p, n, data + done, piece + (f->status_inside && done + piece == length), writable);
        done += piece;
    }
    return f->status_inside && length ? n : add(p, n, r->status, 1, 1);
}

/* Runs one request alone on queue 0; 0 if it could not be asked (too long for the ring), -1 if the
 * device never answered. */
static int ask(struct request *r, u32 type, u64 sector, u8 *data, u32 length, u32 writable,
               const struct framing *f, int indirect)
{
    struct piece pieces[MAX_PIECES];
    r->header.type = type;
    r->header.priority = 0;
    r->header.sector = sector;
    u32 n = frame(pieces, r, data, length, writable, f);
    if (!submit(&queues[0], r, pieces, n, indirect))
        return 0;
    return await(&queues[0], r, PATIENCE) ? 1 : -1;
}

/* Whether a request of three pieces must be indirect, for want of room in the ring. */
static int cramped(void) { return queues[0].size < 3 && indirect_allowed; }

static void report(const char *name, const char *how, const struct request *r, int answered, const char *data)
{
    if (answered < 0)
        say("case %s%s silent", name, how);
    else if (answered)
        say("case %s%s status=%u used=%u data=%s", name, how, (u64)*r->status, (u64)r->used, data);
}

/* --- facts ------------------------------------------------------------------------------------- */

static u64 config(u32 at, u32 bytes)
{
    u64 value = 0;
    for (u32 i = 0; i < bytes; i++)
        value |= (u64)read8(device.config + at + i) << i * 8;
    return value;
}

static void report_facts(void)
{
    struct request *r = &requests[0];
    u8 *id = buffers[0];
    say("transport %s", device.mmio ? "mmio" : "pci");
    say("features offered=0x%x acked=0x%x", features_offered, features_acked);
    capacity = config(0, 8);
    say("config capacity=%u size_max=%u seg_max=%u blk_size=%u wce=%u num_queues=%u", capacity,
        config(8, 4), config(12, 4), config(20, 4), config(32, 1), config(34, 2));
    say("topology physical_exponent=%u alignment=%u min_io=%u opt_io=%u", config(24, 1), config(25, 1),
        config(26, 2), config(28, 4));
    say("queues %u ring=%u", (u64)queue_count, (u64)queues[0].size);
    memset(id, POISON, 32);
    int answered = ask(r, GET_ID, 0, id, 20, 1, &PLAIN, cramped());
    int intact = id[20] == POISON;
    id[20] = 0;
    report("get_id", "", r, answered, intact ? "ok" : "bad");
    for (u8 *c = id; *c; c++)
        *c = *c < 33 || *c > 126 ? '_' : *c; /* The serial number cannot forge a line. */
    say("serial [%s]", (char *)id);
}

/* --- the whole disk ---------------------------------------------------------------------------- */

static int request_chunk(u32 slot, u64 sector, u32 length)
{
    struct piece pieces[MAX_PIECES];
    struct request *r = &requests[slot];
    r->header.type = IN;
    r->header.sector = sector;
    memset(buffers[slot], POISON, length);
    u32 n = frame(pieces, r, buffers[slot], length, 1, &PLAIN);
    return submit(&queues[slot % queue_count], r, pieces, n, indirect_allowed);
}

/* Reads every sector with many requests in flight, in turn on every queue, and folds each u64 into an
 * FNV-1a digest. */
static void read_disk(void)
{
    u64 chunks = (capacity * 512 + CHUNK - 1) / CHUNK, asked = 0, bad = 0, digest = 0xcbf29ce484222325;
    u32 slots = indirect_allowed ? queues[0].size : queues[0].size / 3;
    slots = slots * queue_count < SLOTS ? slots * queue_count : SLOTS;
    slots -= slots % queue_count;
    for (u64 folded = 0; folded < chunks; folded++) {
        for (; asked < chunks && asked < folded + slots; asked++) {
            u64 left = capacity * 512 - asked * CHUNK;
            if (!request_chunk(asked % slots, asked * (CHUNK / 512), left < CHUNK ? left : CHUNK))
                say("error no room in the ring");
        }
        u64 left = capacity * 512 - folded * CHUNK, length = left < CHUNK ? left : CHUNK;
        u32 slot = folded % slots;
        if (!await(&queues[slot % queue_count], &requests[slot], PATIENCE)) {
            say("error read of chunk %u never answered", folded);
            return;
        }
        bad += *requests[slot].status != 0 || requests[slot].used != length + 1;
        const u64 *words = (const u64 *)buffers[slot];
        for (u64 i = 0; i < length / 8; i++)
            digest = (digest ^ words[i]) * 0x100000001b3;
    }
    say("disk digest=0x%x chunks=%u bad=%u inflight=%u", digest, chunks, bad, (u64)slots);
}

/* --- refused and unusual requests -------------------------------------------------------------- */

static int read_reference(u8 *to)
{
    return ask(&requests[1], IN, reference_at, to, REFERENCE, 1, &PLAIN, cramped()) > 0 && !*requests[1].status;
}

static const char *still_there(void)
{
    return read_reference(buffers[1]) && same(buffers[1], reference, REFERENCE) ? "ok" : "bad";
}

static void refuse(const char *name, u32 type, u64 sector, u32 length, u32 writable)
{
    struct request *r = &requests[0];
    u8 *data = buffers[0];
    memset(data, writable ? POISON : 0, length + 1);
    if (type >= DISCARD && type <= SECURE_ERASE && length >= 16) { /* struct virtio_blk_discard_write_zeroes */
        *(u64 *)data = reference_at;
        ((u32 *)data)[2] = REFERENCE_SECTORS;
    }
    int answered = ask(r, type, sector, data, length, writable, &PLAIN, cramped());
    report(name, "", r, answered, still_there());
}

static void refused_requests(void)
{
    refuse("out", OUT, reference_at, 4096, 0);
    refuse("out_whole", OUT, reference_at, REFERENCE, 0);
    refuse("out_past_end", OUT, capacity, 512, 0);
    refuse("discard", DISCARD, 0, 16, 0);
    refuse("write_zeroes", WRITE_ZEROES, 0, 16, 0);
    refuse("secure_erase", SECURE_ERASE, 0, 16, 0);
    refuse("discard_empty", DISCARD, 0, 0, 0);
    refuse("flush", FLUSH, 0, 0, 0);
    refuse("unknown_type", 77, 0, 512, 1);
    refuse("huge_type", 0xffffffff, 0, 512, 1);
    refuse("zone_report", 16, 0, 512, 1);
    refuse("in_past_end", IN, capacity, 512, 1);
    refuse("in_last", IN, capacity - 1, 512, 1);
    refuse("in_straddling", IN, capacity - 1, 1024, 1);
    refuse("in_sector_max", IN, ~0ul, 512, 1);
    refuse("in_sector_wraps_bytes", IN, 1ul << 55, 512, 1);
    refuse("in_sector_wraps_to_start", IN, (1ul << 55) | reference_at, 512, 1);
    refuse("in_sector_negative", IN, ~0ul - 6, 4096, 1);
    refuse("in_empty", IN, 0, 0, 1);
    refuse("in_empty_past_end", IN, capacity + 1, 0, 1);
    refuse("in_half_sector", IN, reference_at, 256, 1);
    refuse("in_readable_data", IN, reference_at, 512, 0);
    refuse("get_id_short", GET_ID, 0, 8, 1);
    refuse("get_id_long", GET_ID, 0, 64, 1);
}

/* --- framings ---------------------------------------------------------------------------------- */

static void framed(const struct framing *f, u32 length)
{
    for (int indirect = 0; indirect <= (int)indirect_allowed; indirect++) {
        struct request *r = &requests[0];
        u8 *data = buffers[0];
        memset(data, POISON, length + 64);
        int answered = ask(r, IN, reference_at, data, length, 1, f, indirect);
        int good = same(data, reference, length) && data[length + f->status_inside] == POISON;
        report(f->name, indirect ? "_indirect" : "_direct", r, answered, good ? "ok" : "bad");
    }
}

static void framings(void)
{
    static const struct framing odd[] = {
        {"header_16_pieces", 16, {0}, 0},
        {"data_odd_pieces", 0, {1, 511, 513, 7}, 0},
        {"data_bytes_at_start", 0, {1, 1, 3, 8192}, 0},
        {"data_one_sector_pieces", 0, {512, 512, 512, 512}, 0},
        {"status_inside", 0, {0}, 1},
        {"status_inside_odd", 5, {3, 1021, 100, 29}, 1},
        {"everything_odd", 7, {5, 501, 6, 1536}, 0},
    };
    static char name[] = "header_cut_00";
    struct framing cut = {name, 0, {0}, 0};
    framed(&PLAIN, REFERENCE);
    for (cut.header_cut = 1; cut.header_cut < 16; cut.header_cut++) {
        name[11] = '0' + cut.header_cut / 10;
        name[12] = '0' + cut.header_cut % 10;
        framed(&cut, 4096);
    }
    for (u32 i = 0; i < COUNT(odd); i++)
        framed(&odd[i], 8192);
}

#include "hostile.h"

/* Rounds of reads in flight while the harness kills, restarts or stops the device. */
static void soak(u64 rounds)
{
    u64 bad = 0, longest = 0;
    u32 slots = queues[0].size / 3 < SLOTS ? queues[0].size / 3 : SLOTS;
    say("soak begins rounds=%u inflight=%u", rounds, (u64)slots);
    for (u64 round = 0; round < rounds; round++) {
        u64 start = ticks();
        for (u32 slot = 0; slot < slots; slot++)
            request_chunk(slot, reference_at, REFERENCE);
        for (u32 slot = 0; slot < slots; slot++) {
            if (!await(&queues[slot % queue_count], &requests[slot], 4 * PATIENCE)) {
                say("error soak round %u slot %u never answered", round, (u64)slot);
                return;
            }
            bad += *requests[slot].status || !same(buffers[slot], reference, REFERENCE);
        }
        longest = ticks() - start > longest ? ticks() - start : longest;
        if (round % 256 == 255)
            say("soak round=%u", round + 1);
    }
    say("soak ends bad=%u longest=%u", bad, longest);
}

#include "carry.h"

void guest_main(const u32 *start_info)
{
    u64 command_line_at = *(const u64 *)&start_info[6];
    if (start_info[0] == 0x336ec578 && command_line_at)
        command_line = (const char *)command_line_at;
    say("begin");
    features_wanted = (option_number("features", ~0ul) & KNOWN_FEATURES) | 1ul << BIT_VERSION_1;
    ring_size = option_number("ringsize", 128);
    queues_wanted = option_number("queues", 1);
    queues_wanted = queues_wanted < MAX_QUEUES ? queues_wanted : MAX_QUEUES;
    reference_at = option_number("at", 0);
    if (!find_pci() && !find_mmio()) {
        say("error no disk found");
    } else if (!start_device(features_wanted, ring_size, queues_wanted)) {
        say("error the device refused the features");
    } else {
        if (option_number("indirect", 1) == 0)
            indirect_allowed = 0;
        report_facts();
        if (!read_reference(reference))
            say("error the reference could not be read");
        if (!option("nohash"))
            read_disk();
        if (!option("carry")) {
            refused_requests();
            framings();
        }
        if (option("hostile"))
            hostile_rings();
        if (option_number("soak", 0))
            soak(option_number("soak", 0));
        if (option_number("carry", 0))
            carry(option_number("carry", 0));
        say("done");
    }
    set_status(0);
    leave();
}
