//! ZFiles made and mangled by hand. The layout is written down a second time here, so that a mistake in the
//! crate's own idea of it shows.

use blob::test_util::noise;
use blob::{MemoryBlob, ReadAt, ReadError};
use zfile::{OpenError, Writer, WriterOptions, ZFile, raw_crc32c};

/// Where fields are in a header or trailer.
pub(crate) const DIGEST: usize = 28;
pub(crate) const FLAGS: usize = 32;
pub(crate) const INDEX_OFFSET: usize = 40;
pub(crate) const INDEX_SIZE: usize = 48;
pub(crate) const ORIGINAL_SIZE: usize = 56;
pub(crate) const INDEX_CRC: usize = 64;
pub(crate) const BLOCK_SIZE: usize = 72;
pub(crate) const ALGO: usize = 76;
pub(crate) const USE_DICT: usize = 78;
pub(crate) const DICT_SIZE: usize = 84;
pub(crate) const VERIFY: usize = 88;

/// Which header a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Overwritten,
    TrailerOnly,
}

pub(crate) const FORMS: [Form; 2] = [Form::Overwritten, Form::TrailerOnly];

pub(crate) fn write(options: &WriterOptions, form: Form, content: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), options.clone()).unwrap();
    writer.append(content).unwrap();
    match form {
        Form::Overwritten => writer.finish_overwriting().unwrap(),
        Form::TrailerOnly => writer.finish().unwrap(),
    }
}

/// Bytes of which some compress and some do not.
pub(crate) fn mixed(len: usize, seed: u64) -> Vec<u8> {
    let random = noise(len, seed);
    let words = random.iter().enumerate().map(|(i, byte)| {
        let region = noise(1, seed ^ (i as u64 / 3000))[0];
        match region % 3 {
            0 => *byte,
            1 => byte & 3,
            _ => region,
        }
    });
    words.collect()
}

/// What a file is made of.
pub(crate) struct Parts {
    pub(crate) form: Form,
    pub(crate) algo: u8,
    pub(crate) block_size: u32,
    pub(crate) verify: bool,
    pub(crate) content_len: u64,
    pub(crate) payloads: Vec<Vec<u8>>,
}

impl Parts {
    pub(crate) fn assemble(&self) -> Vec<u8> {
        let mut file = vec![0; 512];
        let mut index = Vec::new();
        for payload in &self.payloads {
            let start = file.len();
            file.extend(payload);
            if self.verify {
                file.extend(raw_crc32c(100_007, payload).to_le_bytes());
            }
            index.extend(u32::try_from(file.len() - start).unwrap().to_le_bytes());
        }
        let index_offset = file.len() as u64;
        file.extend(index);
        let trailer = file.len();
        file.extend([0; 512]);
        let header_flags = if self.form == Form::Overwritten {
            0x1B
        } else {
            0x13
        };
        for (at, flags) in [(0, header_flags), (trailer, 0x16)] {
            file[at..at + 24].copy_from_slice(b"ZFile\0\x01\0tuji.yyf@Alibaba");
            put_u32(&mut file, at + 24, 96);
            put_u64(&mut file, at + FLAGS, flags);
            if flags != 0x13 {
                put_u64(&mut file, at + INDEX_OFFSET, index_offset);
                put_u64(&mut file, at + INDEX_SIZE, self.payloads.len() as u64);
                put_u64(&mut file, at + ORIGINAL_SIZE, self.content_len);
            }
            put_u32(&mut file, at + BLOCK_SIZE, self.block_size);
            file[at + ALGO] = self.algo;
            file[at + VERIFY] = u8::from(self.verify);
        }
        fix_checksums(&mut file);
        file
    }
}

pub(crate) fn put_u32(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn get_u64(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

/// Where the trailer starts.
pub(crate) fn trailer(file: &[u8]) -> usize {
    file.len() - 512
}

/// Where the jump table starts, by the trailer's word.
pub(crate) fn index_offset(file: &[u8]) -> usize {
    usize::try_from(get_u64(file, trailer(file) + INDEX_OFFSET)).unwrap()
}

/// Makes every checksum of the metadata right again.
pub(crate) fn fix_checksums(file: &mut [u8]) {
    for at in [0, trailer(file)] {
        let start = get_u64(file, at + INDEX_OFFSET);
        let end = get_u64(file, at + INDEX_SIZE)
            .checked_mul(4)
            .and_then(|len| start.checked_add(len));
        let range = usize::try_from(start)
            .ok()
            .zip(end.and_then(|end| usize::try_from(end).ok()));
        if let Some(index) = range.and_then(|(start, end)| file.get(start..end)) {
            let index_crc = raw_crc32c(0, index);
            put_u32(file, at + INDEX_CRC, index_crc);
        }
        put_u32(file, at + DIGEST, 0);
        let digest = raw_crc32c(0, &file[at..at + 512]);
        put_u32(file, at + DIGEST, digest);
    }
}

pub(crate) fn open(file: &[u8]) -> Result<ZFile<MemoryBlob>, OpenError> {
    ZFile::open(MemoryBlob::new(file.to_vec()))
}

pub(crate) fn read_all<S: ReadAt>(zfile: &ZFile<S>) -> Result<Vec<u8>, ReadError> {
    let mut content = vec![0xA5; usize::try_from(zfile.len_bytes()).unwrap()];
    zfile.read_exact_at(&mut content, 0)?;
    Ok(content)
}

/// Whether the file is refused; if not, it must give this content or an error.
pub(crate) fn refused_or_right(file: &[u8], content: &[u8], what: &str) -> bool {
    let Ok(zfile) = open(file) else { return true };
    match read_all(&zfile) {
        Ok(found) => {
            assert!(found == content, "{what}: wrong bytes");
            false
        }
        Err(_) => true,
    }
}

/// An error and its causes, as a person sees them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
