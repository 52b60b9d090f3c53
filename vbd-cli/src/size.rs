//! Lengths and shares for people.

use std::fmt;

/// A number of bytes in the largest unit that leaves at least 1: `512 B`, `64 MiB`, `12.3 GiB`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut unit = 0;
        let mut scale = 1_u128;
        let bytes = u128::from(self.0);
        while bytes >= scale * 1024 && unit + 1 < UNITS.len() {
            scale *= 1024;
            unit += 1;
        }
        let tenths = (bytes * 10 + scale / 2) / scale;
        let name = UNITS.get(unit).unwrap_or(&"B");
        let text = match tenths % 10 {
            0 => format!("{} {name}", tenths / 10),
            tenth => format!("{}.{tenth} {name}", tenths / 10),
        };
        f.pad(&text)
    }
}

/// How much of a whole a part is, in percent with one digit behind the point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent {
    pub(crate) part: u64,
    pub(crate) whole: u64,
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = u128::from(self.whole.max(1));
        let tenths = (u128::from(self.part) * 1000 + whole / 2) / whole;
        f.pad(&format!("{}.{} %", tenths / 10, tenths % 10))
    }
}

/// How many there are of something that takes an s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{s}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_rounded() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 20) - 1, "1024 KiB"),
            (12_345_678, "11.8 MiB"),
            (64 << 40, "64 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(
            format!("{:>7}|{:<7}", Size(512), Size(512)),
            "  512 B|512 B  "
        );
    }

    #[test]
    fn one_takes_no_s() {
        let texts = [0, 1, 2].map(|count| Count(count, "layer").to_string());
        assert_eq!(texts, ["0 layers", "1 layer", "2 layers"]);
    }

    #[test]
    fn shares_are_rounded_and_a_share_of_nothing_is_nothing() {
        for (part, whole, text) in [
            (0, 0, "0.0 %"),
            (1, 3, "33.3 %"),
            (2, 3, "66.7 %"),
            (5, 5, "100.0 %"),
            (u64::MAX, u64::MAX, "100.0 %"),
        ] {
            assert_eq!(Percent { part, whole }.to_string(), text);
        }
    }
}
