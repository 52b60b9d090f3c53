//! `vbd verify`.

use crate::support::{Place, compressed, layer};

const STACK: [&str; 3] = ["base.lsmt", "app.zfile", "top.tar"];

#[test]
fn good_stack_is_good_and_what_nothing_guards_is_said() {
    let place = Place::with_stack();
    let run = place.vbd(&["verify", STACK[0], STACK[1], STACK[2]]);
    assert_eq!(run.status, 0, "{run:?}");
    let expected = "\
layer 0 (base.lsmt): readable, but nothing guards its data, 300 KiB checked
layer 1 (app.zfile): good, 44 KiB checked
layer 2 (top.tar): good, 16 KiB checked
";
    assert_eq!(run.out, expected);
    assert!(run.err.is_empty());
}

#[test]
fn damage_is_placed_and_what_is_hidden_is_said_to_be() {
    let place = Place::new();
    // 8 blocks of noise after that of the header, each a bit longer than it was.
    place.write(
        "lower.zfile",
        &compressed(&layer("", "", &[(0, 64, false)])),
    );
    place.write("upper.zfile", &compressed(&layer("", "", &[(0, 16, true)])));
    let len = place.read("lower.zfile").len();
    // Into the second and the last block of data.
    let blocks_end = len - 512 - 4 * 11;
    place.damage("lower.zfile", blocks_end / 2 - 11_000);
    place.damage("lower.zfile", blocks_end - 2000 - 4000);
    let run = place.vbd(&["--json", "verify", "lower.zfile", "upper.zfile"]);
    assert_eq!(run.status, 1, "{run:?}");
    let json = run.json();
    assert_eq!(json["verdict"], "damaged");
    assert_eq!(json["layers"][1]["verdict"], "good");
    let faults = json["layers"][0]["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 2, "{faults:?}");
    for fault in faults {
        assert_eq!(fault["kind"], "block");
        let block = fault["blocks"]["start"].as_u64().unwrap();
        let first = (block - 1) * 8;
        let range = serde_json::json!([{ "start": first, "end": first + 8 }]);
        assert_eq!(fault["reach"]["ranges"], range);
        let seen = if first < 16 {
            serde_json::json!([])
        } else {
            range
        };
        assert_eq!(fault["seen"]["ranges"], seen);
    }
    let words = place.vbd(&["verify", "lower.zfile", "upper.zfile"]);
    assert_eq!(words.status, 1);
    assert!(
        words.out.contains("DAMAGED") && words.out.contains("checksum 0x"),
        "{}",
        words.out
    );
    assert!(
        words.out.contains("all hidden by higher layers"),
        "{}",
        words.out
    );
    assert!(
        words.out.contains("layer 1 (upper.zfile): good"),
        "{}",
        words.out
    );
}

#[test]
fn damage_is_one_and_what_cannot_be_read_is_two() {
    let place = Place::with_stack();
    let missing = place.vbd(&["verify", "base.lsmt", "no-such-layer"]);
    assert_eq!(missing.status, 2);
    assert!(
        missing.out.contains("(no-such-layer): UNREADABLE"),
        "{}",
        missing.out
    );
    assert!(
        missing.out.contains("layer 0 (base.lsmt): readable"),
        "{}",
        missing.out
    );
    place.damage("app.zfile", 1000);
    assert_eq!(
        place.vbd(&["verify", "app.zfile", "no-such-layer"]).status,
        1
    );
    place.write("nothing", b"nothing");
    assert_eq!(place.vbd(&["verify", "nothing"]).status, 1);
    assert_eq!(place.vbd(&["verify"]).status, 2);
    let config = place.vbd(&["verify", "--config", "no-such-config"]);
    assert_eq!(config.status, 2, "{config:?}");
}

#[test]
fn digest_proves_what_nothing_else_guards() {
    let place = Place::with_stack();
    let written = place.vbd(&["config", "write", "--digest", "-", "base.lsmt"]);
    let digest = written.json()["lowers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let right = ["verify", "base.lsmt", "--digest", &digest];
    let run = place.vbd(&right);
    assert_eq!(
        (run.status, run.out.as_str()),
        (0, "layer 0 (base.lsmt): good, 300 KiB checked\n")
    );
    place.damage("base.lsmt", 5000);
    assert_eq!(place.vbd(&["verify", "base.lsmt"]).status, 0);
    let run = place.vbd(&right);
    assert_eq!(run.status, 1);
    assert!(
        run.out.contains(&format!("expected {digest}")),
        "{}",
        run.out
    );
    let few = place.vbd(&["verify", "base.lsmt", "app.zfile", "--digest", &digest]);
    assert_eq!(few.status, 2);
    assert!(few.err.contains("1 digest for 2 layers"), "{}", few.err);
    assert_eq!(
        place
            .vbd(&["verify", "base.lsmt", "--digest", "sha256:1"])
            .status,
        2
    );
}

#[test]
fn threads_change_nothing_but_the_time() {
    let place = Place::with_stack();
    place.damage("app.zfile", 9000);
    let on = |threads| {
        place.vbd(&[
            "--json",
            "verify",
            "--threads",
            threads,
            STACK[0],
            STACK[1],
            STACK[2],
        ])
    };
    let one = on("1");
    assert_eq!(one.status, 1);
    assert_eq!(one.out, on("7").out);
}
