//! `vbd config`.

use image::{Image, ImageConfig};
use serde_json::json;

use crate::support::Place;

const STACK: [&str; 3] = ["base.lsmt", "app.zfile", "top.tar"];

#[test]
fn written_configuration_leads_back_to_the_same_disk() {
    let place = Place::with_stack();
    let args = [
        "config",
        "write",
        "config.v1.json",
        STACK[0],
        STACK[1],
        STACK[2],
    ];
    let run = place.vbd(&args);
    assert_eq!(run.status, 0, "{run:?}");
    assert_eq!(run.out, "config.v1.json: 3 layers, a disk of 1 MiB\n");
    let config = ImageConfig::load(&place.path("config.v1.json")).unwrap();
    assert!(config.layers.iter().all(|path| path.is_absolute()));
    let image = Image::open(&config.layers).unwrap();
    let direct = Image::open(&STACK.map(|name| place.path(name))).unwrap();
    assert_eq!(image.disk().fingerprint(), direct.disk().fingerprint());
    let text: serde_json::Value = serde_json::from_slice(&place.read("config.v1.json")).unwrap();
    assert_eq!(text["repoBlobUrl"], "");
    assert_eq!(text["lowers"].as_array().unwrap().len(), 3);
    assert!(text["lowers"][0].get("digest").is_none());
    let again = place.vbd(&args);
    assert_eq!(again.status, 1);
    assert!(again.err.contains("--force"), "{}", again.err);
}

#[test]
fn relative_paths_count_from_the_directory_of_the_configuration() {
    let place = Place::with_stack();
    std::fs::create_dir(place.path("configs")).unwrap();
    let out = "configs/config.v1.json";
    let run = place.vbd(&["--json", "config", "write", "--relative", out, "base.lsmt"]);
    assert_eq!(run.status, 0, "{run:?}");
    assert_eq!(
        run.json(),
        json!({ "output": out, "layers": 1, "disk_len_bytes": 1 << 20 })
    );
    let text: serde_json::Value = serde_json::from_slice(&place.read(out)).unwrap();
    assert_eq!(text["lowers"], json!([{ "file": "../base.lsmt" }]));
    assert_eq!(place.vbd(&["config", "check", out]).status, 0);
}

#[test]
fn what_makes_no_disk_is_not_written() {
    let place = Place::with_stack();
    place.damage("app.zfile", 40);
    let run = place.vbd(&[
        "config",
        "write",
        "config.v1.json",
        "base.lsmt",
        "app.zfile",
    ]);
    assert_eq!(run.status, 1);
    assert!(run.err.contains("layer 1 (app.zfile)"), "{}", run.err);
    assert!(run.out.is_empty());
    assert_eq!(place.names(), ["app.zfile", "base.lsmt", "top.tar"]);
    let onto = place.vbd(&["config", "write", "--force", "base.lsmt", "base.lsmt"]);
    assert_eq!(onto.status, 1);
    assert!(onto.err.contains("is the input"), "{}", onto.err);
}

#[test]
fn what_is_stated_is_compared_with_what_is_there() {
    let place = Place::with_stack();
    let args = [
        "config", "write", "--digest", "c.json", STACK[0], STACK[1], STACK[2],
    ];
    assert_eq!(place.vbd(&args).status, 0);
    for check in [
        &["config", "check", "c.json"][..],
        &["config", "check", "--digest", "c.json"],
    ] {
        let run = place.vbd(check);
        assert_eq!(run.status, 0, "{run:?}");
        assert!(
            run.out.contains("a disk of 1 MiB (1048576 bytes)"),
            "{}",
            run.out
        );
    }
    // A changed byte in a place that only the digest tells of.
    place.damage("base.lsmt", 5000);
    assert_eq!(place.vbd(&["config", "check", "c.json"]).status, 0);
    let run = place.vbd(&["--json", "config", "check", "--digest", "c.json"]);
    assert_eq!(run.status, 1);
    let json = run.json();
    let fault = json["layers"][0]["faults"][0].as_str().unwrap();
    assert!(fault.starts_with("has the digest sha256:"), "{fault}");
    assert_eq!(json["layers"][1]["faults"], json!([]));

    let mut longer = place.read("top.tar");
    longer.extend([0; 512]);
    place.write("top.tar", &longer);
    let run = place.vbd(&["config", "check", "c.json"]);
    assert_eq!(run.status, 1);
    let wrong = format!(
        "  WRONG: has {} bytes, the configuration states",
        longer.len()
    );
    assert!(run.out.contains(&wrong), "{}", run.out);
}

#[test]
fn bad_configurations_are_told_from_good_ones() {
    let place = Place::with_stack();
    for (text, out, err) in [
        (
            r#"{"lowers":[{"file":"no-such"}]}"#,
            "no disk: layer 0",
            "not as it should be",
        ),
        (
            r#"{"lowers":[{"file":"base.lsmt","digest":"md5:1"}]}"#,
            "the stated digest is none",
            "not as",
        ),
        (r#"{"lowers":[]}"#, "", "names no layer"),
        ("[]", "", "is not a valid image configuration"),
        (
            r#"{"lowers":[{"digest":"sha256:00"}]}"#,
            "",
            "remote layers are not supported",
        ),
    ] {
        place.write("c.json", text.as_bytes());
        let run = place.vbd(&["config", "check", "c.json"]);
        assert_eq!(run.status, 1, "{text}");
        assert!(
            run.out.contains(out) && run.err.contains(err),
            "{text}: {run:?}"
        );
    }
    let text = br#"{"lowers":[{"file":"base.lsmt"},{"dir":"/t"}],"accelerationLayer":true}"#;
    place.write("c.json", text);
    let run = place.vbd(&["config", "check", "c.json"]);
    assert_eq!(run.status, 0, "{run:?}");
    assert!(
        run.out
            .contains("note: the last lower is an acceleration layer"),
        "{}",
        run.out
    );
    assert_eq!(place.vbd(&["config", "write", "c.json"]).status, 2);
}
