/* Broken rings: what only a hostile or defective guest makes. The answer is the device's own business
 * (an error, a used length of 0, silence); what is asked for is that after a reset the disk reads as
 * before, and that the device never writes where it was not told to. */

static u64 outside; /* Set by the command line: an address where the guest has no memory. */

enum hostile {
    NO_STATUS, HEADER_SHORT, HEADER_WRITABLE, EMPTY_PIECE, STATUS_FIRST, STATUS_READABLE, NEXT_LOOP, NEXT_OUT_OF_TABLE,
    DATA_OUTSIDE_MEMORY, HEADER_OUTSIDE_MEMORY, DATA_WRAPS_ADDRESS, STATUS_OUTSIDE_MEMORY, HUGE_LENGTH,
    INDIRECT_ODD_LENGTH, INDIRECT_EMPTY, INDIRECT_NESTED, INDIRECT_OUTSIDE_MEMORY, INDIRECT_LOOP,
    HEAD_OUT_OF_TABLE, INDEX_RUNS_AHEAD, HOSTILE_KINDS
};

static const char *const hostile_names[HOSTILE_KINDS] = {
    "no_status", "header_short", "header_writable", "empty_piece", "status_first", "status_readable", "next_loop",
    "next_out_of_table", "data_outside_memory", "header_outside_memory", "data_wraps_address",
    "status_outside_memory", "huge_length", "indirect_odd_length", "indirect_empty", "indirect_nested",
    "indirect_outside_memory", "indirect_loop", "head_out_of_table", "index_runs_ahead",
};

/* Spoils a good three-piece read in descriptors 0, 1, 2 of the table `t`. */
static void spoil_chain(enum hostile kind, struct descriptor *t, u16 entries)
{
    switch (kind) {
    case NO_STATUS: t[0].flags = 0; break;
    case HEADER_SHORT: t[0].length = 8; break;
    case HEADER_WRITABLE: t[0].flags |= WRITE; break;
    case EMPTY_PIECE: t[1].length = 0; break;
    case STATUS_FIRST: t[0].next = 2; t[2].flags |= NEXT; t[2].next = 1; t[1].flags = WRITE; break;
    case STATUS_READABLE: t[2].flags = 0; break;
    case NEXT_LOOP: t[2].flags |= NEXT; t[2].next = 1; break;
    case NEXT_OUT_OF_TABLE: t[1].next = entries; break;
    case DATA_OUTSIDE_MEMORY: t[1].address = outside; break;
    case HEADER_OUTSIDE_MEMORY: t[0].address = outside; break;
    case DATA_WRAPS_ADDRESS: t[1].address = ~0ul - 511; t[1].length = 4096; break;
    case STATUS_OUTSIDE_MEMORY: t[2].address = outside; break;
    case HUGE_LENGTH: t[1].length = 0xffffffff; break;
    default: break;
    }
}

static void spoil_indirect(enum hostile kind, struct queue *q, struct request *r)
{
    memcpy(r->table, q->table, 3 * 16);
    q->table[0] = (struct descriptor){(u64)r->table, 48, INDIRECT, 0};
    switch (kind) {
    case INDIRECT_ODD_LENGTH: q->table[0].length = 47; break;
    case INDIRECT_EMPTY: q->table[0].length = 0; break;
    case INDIRECT_NESTED: r->table[1].flags |= INDIRECT; break;
    case INDIRECT_OUTSIDE_MEMORY: q->table[0].address = outside; break;
    case INDIRECT_LOOP: r->table[2].flags |= NEXT; r->table[2].next = 0; break;
    default: break;
    }
}

static void hostile_ring(enum hostile kind)
{
    struct queue *q = &queues[0];
    struct request *r = &requests[0];
    u8 *data = buffers[0];
    memset(data, POISON, CHUNK);
    r->header.type = IN;
    r->header.sector = reference_at;
    r->own_status = UNTOUCHED;
    q->table[0] = (struct descriptor){(u64)&r->header, 16, NEXT, 1};
    q->table[1] = (struct descriptor){(u64)data, 4096, NEXT | WRITE, 2};
    q->table[2] = (struct descriptor){(u64)&r->own_status, 1, WRITE, 0};
    if (kind >= INDIRECT_ODD_LENGTH && kind <= INDIRECT_LOOP)
        spoil_indirect(kind, q, r);
    else
        spoil_chain(kind, q->table, q->size);
    q->avail.ring[0] = kind == HEAD_OUT_OF_TABLE ? q->size : 0;
    barrier();
    *(volatile u16 *)&q->avail.index = kind == INDEX_RUNS_AHEAD ? q->size + 5 : 1;
    notify(q);
    for (u64 start = ticks(); ticks() - start < 200000000 && *(volatile u16 *)&q->used.index == 0;)
        asm volatile("pause");
    u64 used = *(volatile u16 *)&q->used.index, status = r->own_status;
    u64 length = q->used.ring[0].length;
    int stray = 0; /* Only the 4096 bytes of the data piece were the device's to write. */
    for (u32 i = kind == HUGE_LENGTH ? CHUNK : 4096; i < CHUNK; i++)
        stray |= data[i] != POISON;
    const char *after = start_device(features_wanted, ring_size, 1) ? still_there() : "refused";
    say("hostile %s answers=%u length=%u status=%u stray=%u after=%s", hostile_names[kind], used, length, status,
        (u64)stray, after);
}

static void hostile_rings(void)
{
    outside = option_number("outside", 0x4000000000);
    for (u32 kind = 0; kind < HOSTILE_KINDS; kind++) {
        if (kind >= INDIRECT_ODD_LENGTH && kind <= INDIRECT_LOOP && !(features_acked >> BIT_INDIRECT & 1))
            continue;
        if (!start_device(features_wanted, ring_size, 1)) {
            say("error the device is gone before %s", hostile_names[kind]);
            return;
        }
        hostile_ring(kind);
    }
}
