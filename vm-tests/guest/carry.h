/* Reads that are looked at much later, for a test that moves the guest to another machine meanwhile.
 *
 * Most pages of the arena are written by the device alone: the processor only looks, and only when a
 * buffer is about to be filled again. So a page that the device wrote and nobody carried along is seen
 * as what it was before. */
enum { CARRIED = 256, MAX_CHUNKS = 4096 };

/* Above the program, below the end of the smallest guest that has this option. */
static u8 *const arena = (u8 *)0x2000000;
static u64 chunk_sums[MAX_CHUNKS];
static u32 holds[CARRIED];

static u64 sum(const u8 *bytes)
{
    const u64 *words = (const u64 *)bytes;
    u64 digest = 0xcbf29ce484222325;
    for (u64 i = 0; i < CHUNK / 8; i++)
        digest = (digest ^ words[i]) * 0x100000001b3;
    return digest;
}

static u64 next_random(void)
{
    static u64 state = 0x9e3779b97f4a7c15;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void read_into(u32 slot, u8 *to, u64 chunk)
{
    struct piece pieces[MAX_PIECES];
    struct request *r = &requests[slot];
    r->header.type = IN;
    r->header.sector = chunk * (CHUNK / 512);
    u32 n = frame(pieces, r, to, CHUNK, 1, &PLAIN);
    submit(&queues[slot % queue_count], r, pieces, n, indirect_allowed);
}

/* Whether the reads of slots 0 to `slots` came back well. */
static u64 failed(u32 slots)
{
    u64 bad = 0;
    for (u32 slot = 0; slot < slots; slot++) {
        if (!await(&queues[slot % queue_count], &requests[slot], 4 * PATIENCE)) {
            say("error a carried read never answered");
            return ~0ul;
        }
        bad += *requests[slot].status || requests[slot].used != CHUNK + 1;
    }
    return bad;
}

static void carry(u64 rounds)
{
    u64 chunks = capacity * 512 / CHUNK, bad = 0;
    chunks = chunks < MAX_CHUNKS ? chunks : MAX_CHUNKS;
    for (u64 chunk = 0; chunk < chunks; chunk++) {
        read_into(0, arena, chunk);
        bad += failed(1);
        chunk_sums[chunk] = sum(arena);
    }
    say("carry begins chunks=%u buffers=%u bad=%u", chunks, (u64)CARRIED, bad);
    for (u64 round = 0; round < rounds && bad < 1000; round++) {
        for (u32 first = 0; first < CARRIED; first += SLOTS) {
            for (u32 slot = 0; slot < SLOTS; slot++) {
                u8 *buffer = arena + (u64)(first + slot) * CHUNK;
                u32 *held = &holds[first + slot];
                u64 chunk = next_random() % chunks;
                bad += round && sum(buffer) != chunk_sums[*held];
                /* Something else than before, or nobody could tell. */
                while (round && chunk_sums[chunk] == chunk_sums[*held])
                    chunk = (chunk + 1) % chunks;
                *held = chunk;
                read_into(slot, buffer, chunk);
            }
            bad += failed(SLOTS);
        }
        if (round % 4 == 3)
            say("carry round=%u bad=%u", round + 1, bad);
    }
    say("carry ends bad=%u", bad);
}
