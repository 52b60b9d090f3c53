//! What was found, as it is collected.

use serde_json::{Value, json};

use crate::args::Group;
use crate::measure::{Case, Sample};

/// One backend under one workload: all rounds.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) group: Group,
    pub(crate) case: Case,
    pub(crate) subject: String,
    pub(crate) samples: Vec<Sample>,
    pub(crate) syscalls: Option<f64>,
    /// Median of the rounds' ratios to the reference of the group.
    pub(crate) ratio: Option<f64>,
    /// The same to the baseline that serves the same stack.
    pub(crate) baseline_ratio: Option<f64>,
}

impl Row {
    /// Nothing measured yet.
    pub(crate) fn new(group: Group, case: &Case, subject: String) -> Self {
        Self {
            group,
            case: case.clone(),
            subject,
            samples: Vec::new(),
            syscalls: None,
            ratio: None,
            baseline_ratio: None,
        }
    }

    pub(crate) fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }

    /// What the workload is about: bytes or requests per second.
    pub(crate) fn rate(&self, sample: &Sample) -> f64 {
        if self.case.counts_bytes() {
            sample.bytes_per_second
        } else {
            sample.requests_per_second
        }
    }

    /// Median of the ratios of rates, round by round.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        median(pairs.map(|(own, others)| self.rate(own) / other.rate(others)))
    }

    /// Lowest and highest rate.
    pub(crate) fn range(&self) -> (f64, f64) {
        let rates = || self.samples.iter().map(|sample| self.rate(sample));
        (
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
        )
    }

    fn json(&self) -> Value {
        let rounds: Vec<Value> = self.samples.iter().map(sample_json).collect();
        let middle = Sample {
            requests_per_second: self.median(|sample| sample.requests_per_second),
            bytes_per_second: self.median(|sample| sample.bytes_per_second),
            p50_us: self.median(|sample| sample.p50_us),
            p99_us: self.median(|sample| sample.p99_us),
            p999_us: self.median(|sample| sample.p999_us),
            cpu_us: self.median(|sample| sample.cpu_us),
            voluntary: self.median(|sample| sample.voluntary),
            involuntary: self.median(|sample| sample.involuntary),
            kicks: self.median(|sample| sample.kicks),
            interrupts: self.median(|sample| sample.interrupts),
            rss_bytes: self.median(|sample| sample.rss_bytes),
        };
        json!({
            "group": self.group.name(),
            "workload": self.case.name,
            "block_bytes": self.case.block_bytes,
            "depth": self.case.depth,
            "queues": self.case.queues,
            "backend": self.subject,
            "median": sample_json(&middle),
            "syscalls_per_request": self.syscalls,
            "ratio_to_reference": self.ratio,
            "ratio_to_baseline": self.baseline_ratio,
            "rounds": rounds,
        })
    }
}

fn sample_json(sample: &Sample) -> Value {
    json!({
        "requests_per_second": sample.requests_per_second,
        "bytes_per_second": sample.bytes_per_second,
        "p50_us": sample.p50_us,
        "p99_us": sample.p99_us,
        "p999_us": sample.p999_us,
        "cpu_us_per_request": sample.cpu_us,
        "voluntary_switches_per_request": sample.voluntary,
        "involuntary_switches_per_request": sample.involuntary,
        "kicks_per_request": sample.kicks,
        "interrupts_per_request": sample.interrupts,
        "rss_bytes": sample.rss_bytes,
    })
}

/// Something that is not a rate of requests.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) group: Group,
    pub(crate) what: String,
    pub(crate) subject: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What `value` is the median of, where it was measured in rounds.
    pub(crate) rounds: Vec<f64>,
    /// Median of the rounds' ratios to another backend or program, and its name.
    pub(crate) ratio: Option<(f64, String)>,
}

impl Fact {
    /// Lowest and highest round.
    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        let lowest = self.rounds.iter().copied().reduce(f64::min)?;
        Some((lowest, self.rounds.iter().copied().reduce(f64::max)?))
    }
}

/// One quantity of several subjects that were measured in the same rounds.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) group: Group,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// By subject, one value for each round.
    pub(crate) rounds: Vec<(String, Vec<f64>)>,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) machine: Vec<(String, String)>,
    pub(crate) reference: Option<String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) facts: Vec<Fact>,
    /// What could not be done, and why.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn fact(
        &mut self,
        group: Group,
        what: impl Into<String>,
        subject: impl Into<String>,
        (value, unit): (f64, &'static str),
    ) {
        self.facts.push(Fact {
            group,
            what: what.into(),
            subject: subject.into(),
            value,
            unit,
            rounds: Vec::new(),
            ratio: None,
        });
    }

    /// Takes in what was measured in rounds, each subject with its ratio to the one named, if that is among them.
    pub(crate) fn facts(&mut self, facts: Facts, reference: Option<&str>) {
        let known = reference.and_then(|name| facts.rounds.iter().find(|(own, _)| own == name));
        let known = known.cloned();
        for (subject, rounds) in facts.rounds {
            let ratio = known.as_ref().filter(|(name, _)| *name != subject);
            let ratio = ratio.map(|(name, others)| {
                let pairs = rounds.iter().zip(others);
                (median(pairs.map(|(own, other)| own / other)), name.clone())
            });
            self.facts.push(Fact {
                group: facts.group,
                what: facts.what.clone(),
                subject,
                value: median(rounds.iter().copied()),
                unit: facts.unit,
                rounds,
                ratio,
            });
        }
    }

    /// What could not be done, said once however often it is found.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    pub(crate) fn json(&self) -> Value {
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|fact| {
                json!({
                    "group": fact.group.name(),
                    "what": fact.what,
                    "backend": fact.subject,
                    "value": fact.value,
                    "unit": fact.unit,
                    "rounds": fact.rounds,
                    "ratio": fact.ratio.as_ref().map(|(ratio, _)| ratio),
                    "ratio_to": fact.ratio.as_ref().map(|(_, name)| name),
                })
            })
            .collect();
        let machine: serde_json::Map<String, Value> = self
            .machine
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.clone())))
            .collect();
        json!({
            "machine": machine,
            "reference": self.reference,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "facts": facts,
            "notes": self.notes,
        })
    }
}

/// The middle one; of an even number the upper of the two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_middle_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median(std::iter::empty()), 0.0);
    }
}
