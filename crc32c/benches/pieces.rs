//! Pieces as long as stored blocks of layers are: `cargo bench -p crc32c`.

use blob::test_util::noise;
use divan::counter::BytesCount;

fn main() {
    divan::main();
}

/// Blocks of 4 KiB are stored in about half of that, blocks of 64 KiB in about 32 KiB.
const LENGTHS: [usize; 6] = [256, 1024, 2048, 4096, 8192, 32_768];

#[divan::bench(args = LENGTHS)]
fn fold(bencher: divan::Bencher, len_bytes: usize) {
    let data = noise(len_bytes, 3);
    bencher
        .counter(BytesCount::new(len_bytes))
        .bench_local(|| crc32c::fold(100_007, divan::black_box(&data)));
}
