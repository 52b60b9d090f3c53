//! What the bare-metal guest reports, and what a read-only disk must have answered.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// Several times what the guest takes where it runs slowest.
const LIMIT: Duration = Duration::from_secs(90);

/// The answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The status byte: 0 done, 1 error, 2 unsupported, 238 never written.
    pub status: u64,
    /// Bytes the device says it has written, the status byte included.
    pub used: u64,
    /// Whether the data was as it must be; for a refused request, whether the disk was the same afterwards.
    pub data_ok: bool,
}

/// The answer to a broken ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostile {
    /// Entries that came back.
    pub answers: u64,
    /// The status byte, 238 where never written.
    pub status: u64,
    /// Whether memory beside the data area was written.
    pub stray: bool,
    /// Whether the disk read as before after a reset: `ok`, `bad`, `refused`.
    pub after: String,
}

/// All that one run of the guest printed.
#[derive(Debug, Default)]
pub struct Report {
    /// Numbers and words by name, from every line that is not a case: `capacity`, `digest`, …
    pub facts: BTreeMap<String, String>,
    /// Every case by name.
    pub cases: BTreeMap<String, Answer>,
    /// Every broken ring by name.
    pub hostile: BTreeMap<String, Hostile>,
    /// The serial number.
    pub serial: String,
}

impl Report {
    /// Waits until the guest is done and reads its report.
    ///
    /// # Errors
    ///
    /// If it ends without success, takes too long, or reports an error or a request without an answer.
    pub fn collect(mut guest: Process) -> Result<Self> {
        let text = guest.wait_for_line(LIMIT, |line| line == "VGX: done")?;
        guest.wait(LIMIT)?;
        Self::parse(&text).with_context(|| text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text
            .lines()
            .filter_map(|line| line.trim_end().split_once("VGX: ").map(|(_, said)| said))
        {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            ensure!(kind != "error" && !line.ends_with(" silent"), "{line}");
            let values: BTreeMap<&str, &str> = rest
                .split(' ')
                .filter_map(|word| word.split_once('='))
                .collect();
            let name = rest.split(' ').next().unwrap_or_default().to_owned();
            let number = |key: &str| -> Result<u64> {
                let value = values
                    .get(key)
                    .with_context(|| format!("no {key}: {line}"))?;
                Ok(value.parse()?)
            };
            match kind {
                "case" => {
                    let data_ok = values.get("data") == Some(&"ok");
                    let answer = Answer {
                        status: number("status")?,
                        used: number("used")?,
                        data_ok,
                    };
                    report.cases.insert(name, answer);
                }
                "hostile" => {
                    let hostile = Hostile {
                        answers: number("answers")?,
                        status: number("status")?,
                        stray: number("stray")? != 0,
                        after: values.get("after").copied().unwrap_or_default().to_owned(),
                    };
                    report.hostile.insert(name, hostile);
                }
                "serial" => rest.trim_matches(['[', ']']).clone_into(&mut report.serial),
                "transport" => drop(report.facts.insert(kind.to_owned(), name)),
                _ => report.facts.extend(
                    values
                        .iter()
                        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
                ),
            }
        }
        Ok(report)
    }

    /// One fact that is a number, decimal or 0x….
    ///
    /// # Errors
    ///
    /// If the guest did not state it, or it is no number.
    pub fn number(&self, name: &str) -> Result<u64> {
        let value = self
            .facts
            .get(name)
            .with_context(|| format!("no {name}: {:?}", self.facts))?;
        Ok(match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16)?,
            None => value.parse()?,
        })
    }

    /// One case.
    ///
    /// # Errors
    ///
    /// If the guest did not run it.
    pub fn case(&self, name: &str) -> Result<Answer> {
        self.cases
            .get(name)
            .copied()
            .with_context(|| format!("case {name} was not run"))
    }

    /// Checks that a request was answered with exactly this status, and the disk is unharmed.
    ///
    /// # Errors
    ///
    /// With the answer, if not.
    pub fn expect_status(&self, name: &str, status: u64) -> Result<()> {
        let answer = self.case(name)?;
        ensure!(
            answer.status == status && answer.data_ok,
            "{name}: {answer:?}, wanted status {status}"
        );
        Ok(())
    }

    /// Checks that every framing of the same read brought the same data, and returns how many there were.
    ///
    /// # Errors
    ///
    /// With the answer to the first that did not.
    pub fn check_framings(&self) -> Result<usize> {
        let framed = |name: &str| name.ends_with("_direct") || name.ends_with("_indirect");
        let mut count = 0;
        for (name, answer) in self.cases.iter().filter(|(name, _)| framed(name)) {
            let bytes = match name.strip_prefix("plain").is_some() {
                true => 32_768,
                false if name.starts_with("header_cut") => 4096,
                false => 8192,
            };
            let right = Answer {
                status: 0,
                used: bytes + 1,
                data_ok: true,
            };
            ensure!(*answer == right, "{name}: {answer:?}");
            count += 1;
        }
        Ok(count)
    }
}

/// The digest of a whole disk as the guest computes it: FNV-1a over 64-bit words.
#[must_use]
pub fn digest(disk: &[u8]) -> u64 {
    let words = disk
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word));
    words.fold(0xcbf2_9ce4_8422_2325, |digest, word| {
        (digest ^ word).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::{Answer, Report};

    #[test]
    fn a_case_line_is_read() {
        let report =
            Report::parse("VGX: case in_last status=0 used=513 data=ok\r\nVGX: done").unwrap();
        let right = Answer {
            status: 0,
            used: 513,
            data_ok: true,
        };
        assert_eq!(report.case("in_last").unwrap(), right);
    }

    #[test]
    fn a_request_without_answer_is_an_error() {
        assert!(Report::parse("VGX: case out silent\nVGX: done\n").is_err());
        assert!(Report::parse("VGX: error no disk found\nVGX: done\n").is_err());
    }
}
