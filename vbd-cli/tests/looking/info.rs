//! `vbd info`.

use crate::support::{Place, layer};

const STACK: [&str; 3] = ["base.lsmt", "app.zfile", "top.tar"];

#[test]
fn stack_is_described_in_words() {
    let place = Place::with_stack();
    let run = place.vbd(&["info", STACK[0], STACK[1], STACK[2]]);
    assert_eq!(run.status, 0, "{run:?}");
    let expected = "\
disk of 1 MiB (1048576 bytes), 3 layers, 5 segments
  content   data 304 KiB (29.7 %), zeroed 128 KiB (12.5 %), holes 592 KiB (57.8 %)
";
    assert!(run.out.starts_with(expected), "{}", run.out);
    for line in [
        "layer 0: base.lsmt",
        "  file      300 KiB (307200 bytes), plain",
        "  lsmt      committed, version 1.1, virtual size 1 MiB",
        "  uuid      11111111-2222-4333-8444-AABBCCDDEEFF, parent none",
        "  lengths   from 32 KiB 1, 256 KiB 1",
        "  seen      data 268 KiB, zeroed 0 B in 2 segments: 26.2 % of the disk",
        "  dead      20 KiB of stored data: 20 KiB hidden, 0 B unused; 0 records hidden",
        "layer 1: app.zfile",
        "layer 2: top.tar",
    ] {
        assert!(
            run.out.lines().any(|found| found == line),
            "{line}\n{}",
            run.out
        );
    }
    for part in [
        "ZFile in tar (PAX)",
        "LZ4, 11 blocks of 4 KiB with checksums; metadata from the header",
    ] {
        assert!(run.out.contains(part), "{part}\n{}", run.out);
    }
    assert!(!run.out.contains("warning") && run.err.is_empty());
}

#[test]
fn map_without_colours_is_plain_text() {
    let place = Place::with_stack();
    let run = place.vbd(&["info", "--map", STACK[0], STACK[1], STACK[2]]);
    assert_eq!(run.status, 0, "{run:?}");
    let map = run
        .out
        .split("\n\n")
        .skip(4)
        .collect::<Vec<_>>()
        .join("\n\n");
    let expected = include_str!("map.txt");
    assert_eq!(map, expected, "{map}");
    // Nobody looks: colours only where they are asked for.
    assert!(!run.out.contains('\x1b'));
    let coloured = place.vbd(&["info", "--map", "--color", "always", STACK[0]]);
    assert!(coloured.out.contains("\x1b[38;5;") && coloured.out.contains("\x1b[0m"));
}

#[test]
fn json_has_everything() {
    let place = Place::with_stack();
    let run = place.vbd(&["--json", "info", "--map", STACK[0], STACK[1], STACK[2]]);
    assert_eq!(run.status, 0, "{run:?}");
    let json = run.json();
    let layers = json["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(layers[0]["path"], "base.lsmt");
    assert_eq!(layers[0]["zfile"], serde_json::Value::Null);
    assert_eq!(layers[0]["lsmt"]["form"], "committed");
    assert_eq!(layers[1]["zfile"]["algorithm"], "LZ4");
    assert_eq!(layers[1]["zfile"]["metadata"], "header");
    assert_eq!(layers[1]["share"]["zeroed_bytes"], 128 << 10);
    assert_eq!(layers[2]["tar"], "PAX");
    assert_eq!(json["disk"]["len_bytes"], 1 << 20);
    assert_eq!(json["disk"]["hole_bytes"], 592 << 10);
    let cells = json["map"]["cells"].as_array().unwrap();
    assert_eq!(
        cells.len() as u64 * json["map"]["cell_sectors"].as_u64().unwrap(),
        2048
    );
    assert_eq!(cells[0]["origin"]["from"], "data");
    assert_eq!(cells[0]["origin"]["layer"], 0);
}

#[test]
fn damaged_layer_is_named_and_the_others_are_shown() {
    let place = Place::with_stack();
    place.damage("app.zfile", 40);
    let args = [
        "info", "--map", "--svg", "disk.svg", STACK[0], STACK[1], STACK[2],
    ];
    let run = place.vbd(&args);
    assert_eq!(run.status, 1);
    assert!(
        run.out.starts_with("no disk: a layer cannot be opened\n"),
        "{}",
        run.out
    );
    assert!(
        run.out
            .contains("  error     ZFile: damaged ZFile: header digest"),
        "{}",
        run.out
    );
    assert!(run.out.contains("layer 2: top.tar\n  file "), "{}", run.out);
    assert_eq!(run.err, "vbd: 1 of 3 layers cannot be opened\n");
    assert!(!place.names().contains(&"disk.svg".to_owned()));
    let json = place.vbd(&["--json", "info", STACK[0], STACK[1]]);
    assert_eq!(json.status, 1);
    assert!(
        json.json()["layers"][1]["error"]
            .as_str()
            .unwrap()
            .contains("digest")
    );
    let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(error["error"], "1 of 2 layers cannot be opened");
}

#[test]
fn wrong_parent_is_a_warning() {
    let place = Place::with_stack();
    place.write(
        "other.lsmt",
        &layer("99999999-2222-4333-8444-AABBCCDDEEFF", "", &[]),
    );
    let run = place.vbd(&["info", "other.lsmt", "app.zfile"]);
    assert_eq!(run.status, 0);
    assert!(
        run.out.contains("  warning   layer 1 names 11111111-"),
        "{}",
        run.out
    );
}

#[test]
fn drawing_is_well_formed_complete_and_safe_to_show() {
    let place = Place::with_stack();
    let hostile = "<script>&\"'\u{1b}]]>.lsmt";
    place.write(hostile, &layer("", "", &[(2000, 8, false)]));
    let args = [
        "info", "--svg", "disk.svg", STACK[0], STACK[1], STACK[2], hostile,
    ];
    let run = place.vbd(&args);
    assert_eq!(run.status, 0, "{run:?}");
    assert!(!run.out.contains('\x1b'));
    let text = String::from_utf8(place.read("disk.svg")).unwrap();
    let drawing = roxmltree::Document::parse(&text).unwrap();
    let root = drawing.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let texts: Vec<_> = drawing
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
        .filter_map(|node| node.text())
        .collect();
    assert!(texts.contains(&"Disk of 1 MiB in 4 layers"), "{texts:?}");
    assert!(
        texts.contains(&"layer 3: <script>&\"'\\u{1b}]]>.lsmt"),
        "{texts:?}"
    );
    let tags = [
        "svg", "title", "style", "defs", "pattern", "rect", "path", "text",
    ];
    for node in drawing.descendants().filter(roxmltree::Node::is_element) {
        assert!(tags.contains(&node.tag_name().name()), "{node:?}");
        assert!(node.attributes().all(|it| !it.name().starts_with("on")));
    }
    // A drawing needs nothing from anywhere else.
    assert!(
        !text
            .replace("http://www.w3.org/2000/svg", "")
            .contains("://")
    );

    // It is there already, and is replaced only when that is asked for.
    let again = place.vbd(&args);
    assert_eq!(again.status, 1);
    assert!(again.err.contains("--force"), "{}", again.err);
    let forced = place.vbd(&["info", "--force", "--svg", "disk.svg", STACK[0]]);
    assert_eq!(forced.status, 0, "{forced:?}");
    let input = place.vbd(&["info", "--force", "--svg", STACK[0], STACK[0]]);
    assert_eq!(input.status, 1);
    assert!(input.err.contains("is the input"), "{}", input.err);
}

#[test]
fn layers_come_from_a_configuration_too_and_wrong_usage_is_told_apart() {
    let place = Place::with_stack();
    place.write("config.v1.json", br#"{"lowers":[{"file":"base.lsmt"}]}"#);
    let run = place.vbd(&["info", "--config", "config.v1.json"]);
    assert_eq!(run.status, 0, "{run:?}");
    assert!(run.out.contains("1 layer,"), "{}", run.out);
    for args in [
        &["info"][..],
        &["info", "--config", "config.v1.json", "base.lsmt"],
        &["info", "--color", "always", "base.lsmt"],
    ] {
        assert_eq!(place.vbd(args).status, 2, "{args:?}");
    }
    let missing = place.vbd(&["info", "no-such-layer"]);
    assert_eq!(missing.status, 1);
    assert!(
        missing.out.contains("cannot open: No such file"),
        "{}",
        missing.out
    );
}
