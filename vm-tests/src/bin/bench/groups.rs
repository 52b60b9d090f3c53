//! Which backends are measured under which workloads.

use vm_tests::load::Pattern;
use zfile::Algorithm;

use crate::args::Group;
use crate::disks::{Chain, Stack};
use crate::measure::Case;
use crate::server::{Aio, Subject};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The subjects and cases of a group that is measured in rounds.
pub(crate) fn plan(group: Group) -> (Vec<Subject>, Vec<Case>) {
    match group {
        Group::Random => (with_polling(), random_cases()),
        Group::Sequential => (
            everybody(),
            vec![
                Case::new(Pattern::Sequential, MIB, 8),
                Case::new(Pattern::Sequential, 4 * KIB, 32),
            ],
        ),
        Group::Depth => (depths(), few_cases()),
        Group::Blocks => {
            let mut cases = few_cases();
            let larger = [16, 64, 256].map(|kib| Case::new(Pattern::Random, kib * KIB, 8));
            cases.splice(1..1, larger);
            // Each block is to be decoded once for all reads of it that follow one another.
            cases.push(Case::new(Pattern::Sequential, 4 * KIB, 32));
            (blocks(), cases)
        }
        Group::Latency => (
            with_polling(),
            [4 * KIB, 16 * KIB, 128 * KIB]
                .into_iter()
                .flat_map(|bytes| {
                    let case = Case::new(Pattern::Random, bytes, 1);
                    [case.clone(), case.spinning()]
                })
                .collect(),
        ),
        Group::Scale | Group::Cold | Group::Slow | Group::Guest => (some(), Vec::new()),
        Group::Limits => {
            let mut cases = few_cases();
            cases.insert(1, Case::new(Pattern::Random, 64 * KIB, 8));
            (limited(), cases)
        }
    }
}

fn random_cases() -> Vec<Case> {
    let random = |depth| Case::new(Pattern::Random, 4 * KIB, depth);
    vec![
        random(1),
        random(1).spinning(),
        random(32),
        random(128),
        random(32).on_queues(2),
        Case::new(Pattern::Random, 64 * KIB, 8),
    ]
}

fn few_cases() -> Vec<Case> {
    vec![
        Case::new(Pattern::Random, 4 * KIB, 32),
        Case::new(Pattern::Sequential, MIB, 8),
    ]
}

/// Both vbd-vhost, so that the two are measured one after the other.
fn both(stack: Stack) -> [Subject; 2] {
    [Subject::Vbd(stack), Subject::Base(stack)]
}

fn everybody() -> Vec<Subject> {
    let own = [Stack::raw(7), Stack::lz4(7)].into_iter().flat_map(both);
    own.chain([
        Subject::QemuRaw(Aio::IoUring),
        Subject::QemuRaw(Aio::Threads),
        Subject::QemuChain(Chain {
            layers: 7,
            zstd: false,
        }),
        Subject::QemuChain(Chain {
            layers: 7,
            zstd: true,
        }),
        Subject::CloudHypervisor,
    ])
    .collect()
}

fn with_polling() -> Vec<Subject> {
    let polling = [Stack::raw(7), Stack::lz4(7)].map(Subject::Polling);
    [everybody(), polling.into()].concat()
}

fn depths() -> Vec<Subject> {
    let stacks = [Stack::raw, Stack::lz4]
        .into_iter()
        .flat_map(|kind| [1, 7, 32, 255].map(kind));
    let chains = [7, 32].map(|layers| {
        Subject::QemuChain(Chain {
            layers,
            zstd: false,
        })
    });
    let flat = Subject::QemuRaw(Aio::IoUring);
    stacks.flat_map(both).chain(chains).chain([flat]).collect()
}

fn blocks() -> Vec<Subject> {
    let stacks = [
        Stack::raw(7),
        Stack::lz4(7),
        Stack::compressed(Algorithm::Lz4, 16, 7),
        Stack::compressed(Algorithm::Lz4, 64, 7),
        Stack::compressed(Algorithm::Zstd, 4, 7),
    ];
    let peers = [
        Subject::QemuChain(Chain {
            layers: 7,
            zstd: true,
        }),
        Subject::QemuRaw(Aio::IoUring),
    ];
    stacks.into_iter().flat_map(both).chain(peers).collect()
}

fn limited() -> Vec<Subject> {
    let stacks = [
        Stack::raw(1),
        Stack::raw(7),
        Stack::lz4(7),
        Stack::compressed(Algorithm::Lz4, 64, 7),
        Stack::compressed(Algorithm::Zstd, 4, 7),
    ];
    let flat = Subject::QemuRaw(Aio::IoUring);
    stacks.map(Subject::Vbd).into_iter().chain([flat]).collect()
}

fn some() -> Vec<Subject> {
    let own = [Stack::raw(7), Stack::lz4(7)].into_iter().flat_map(both);
    own.chain([Subject::QemuRaw(Aio::IoUring)]).collect()
}
