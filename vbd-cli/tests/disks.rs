//! Promise: `create`, `diff`, `commit`, `merge` and `export` do what their help says, refuse what they cannot do by
//! name, and leave nothing half-written behind.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A directory to work in, which is where commands run.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str, args: &str) -> Command {
        let mut command = Command::new(program);
        command.args(args.split_whitespace());
        command.current_dir(self.dir.path());
        command
    }

    fn vbd(&self, args: &str) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_vbd"), args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What a command prints that does what it was told to.
    fn done(&self, args: &str) -> Vec<u8> {
        let output = self.vbd(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "vbd {args}: {said}");
        output.stdout
    }

    fn json(&self, args: &str) -> Value {
        serde_json::from_slice(&self.done(&format!("{args} --json"))).unwrap()
    }

    /// What a command says that does not do what it was told to.
    fn refused(&self, args: &str) -> String {
        self.ended(args, 1)
    }

    fn ended(&self, args: &str, code: i32) -> String {
        let before = self.names();
        let output = self.vbd(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "vbd {args}: {said}");
        assert_eq!(self.names(), before, "vbd {args}");
        said
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        let mut names: Vec<_> = names.map(|entry| name(entry).unwrap()).collect();
        names.sort();
        names
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Runs a tool of others; `false`, and said aloud, where it is not there.
    fn tool(&self, program: &str, args: &str) -> bool {
        match self.command(program, args).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{program} {args}: {said}");
                true
            }
            Err(_) => {
                skip(program);
                false
            }
        }
    }
}

/// Not by `eprintln`, which a passing test keeps to itself.
fn skip(what: &str) {
    let notice = format!("SKIPPED: no {what} here\n");
    io::stderr().write_all(notice.as_bytes()).unwrap();
}

/// Bytes that repeat nowhere.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A disk of 4 MiB, mostly zeroes.
fn disk(seed: u64) -> Vec<u8> {
    let mut disk = vec![0; 4 << 20];
    disk[..9000].copy_from_slice(&noise(9000, seed));
    disk[1 << 20..][..200_000].copy_from_slice(&noise(200_000, seed + 1));
    disk
}

#[test]
fn a_disk_goes_into_layers_and_comes_out_again() {
    let desk = Desk::new();
    let base = disk(1);
    let mut app = base.clone();
    app[1 << 20..][..100_000].fill(0);
    app[3 << 20..][..1000].copy_from_slice(&noise(1000, 5));
    desk.write("base.img", &base);
    desk.write("app.img", &app);

    let made =
        desk.json("create base.lsmt --from base.img --uuid 11111111-2222-4333-8444-aabbccddeeff");
    assert_eq!(made["virtual_size_bytes"], 4 << 20);
    assert_eq!(made["uuid"], "11111111-2222-4333-8444-AABBCCDDEEFF");
    assert_eq!(made["data_bytes"], 12_288 + 200_704);
    let made = desk.json("diff --base base.lsmt --from app.img app.zfile --algorithm lz4 --tag v1");
    assert_eq!(made["parent_uuid"], "11111111-2222-4333-8444-AABBCCDDEEFF");
    // What was not a whole sector before is not one now.
    assert_eq!(made["zeroed_bytes"], 99_840);
    assert_eq!(made["data_bytes"], 512 + 1024);

    desk.done("export base.lsmt app.zfile --to raw app.out");
    assert_eq!(desk.read("app.out"), app);
    assert_eq!(desk.done("export base.lsmt app.zfile -"), app);
    let part = desk.done("export base.lsmt app.zfile --range 3M+1000 -");
    assert_eq!(part, noise(1000, 5));
    assert_eq!(
        desk.done("export base.lsmt --range 512-1K -"),
        base[512..1024]
    );

    desk.done("merge base.lsmt app.zfile all.lsmt");
    assert_eq!(desk.done("export all.lsmt -"), app);
    let config = r#"{"lowers":[{"file":"base.lsmt"},{"file":"app.zfile"}]}"#;
    desk.write("config.json", config.as_bytes());
    desk.done("merge --config config.json again.lsmt");
    assert_eq!(desk.read("again.lsmt"), desk.read("all.lsmt"));
    assert_eq!(desk.done("export --config config.json -"), app);
    let nothing = desk.json("diff --config config.json --from app.img nothing.lsmt");
    assert_eq!(
        (&nothing["data_bytes"], &nothing["zeroed_bytes"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn layers_in_the_middle_are_merged_in_their_place() {
    let desk = Desk::new();
    let mut image = disk(1);
    desk.write("image", &image);
    desk.done("create l0 --from image");
    for layer in 1..4_usize {
        image[layer << 18..][..5000].copy_from_slice(&noise(5000, 9));
        image[1 << 20..][..layer * 1024].fill(0);
        desk.write("image", &image);
        let below: Vec<_> = (0..layer).map(|below| format!("l{below}")).collect();
        desk.done(&format!(
            "diff --base {} --from image l{layer}",
            below.join(",")
        ));
    }
    desk.done("merge l0 l1 l2 l3 middle --from 1 --to 2 --algorithm zstd");
    assert_eq!(desk.done("export l0 middle l3 -"), image);
    let said = desk.refused("merge l0 l1 out --from 1 --to 2");
    assert!(said.contains("there are no layers 1 to 2"), "{said}");
    let said = desk.ended("merge l0", 2);
    assert!(said.contains("expected LAYER... OUT"), "{said}");
}

#[test]
fn outputs_are_protected() {
    let desk = Desk::new();
    desk.write("image", &disk(1));
    desk.write("there", b"precious");
    for command in ["create there --from image", "export image there"] {
        let said = desk.refused(command);
        assert!(said.contains("there exists; --force replaces it"), "{said}");
    }
    assert_eq!(desk.read("there"), b"precious");
    desk.done("create there --from image --force");
    symlink("image", desk.path("same")).unwrap();
    for command in [
        "create image --from image --force",
        "create same --from image --force",
    ] {
        let said = desk.refused(command);
        assert!(said.contains("is the input"), "{said}");
    }
    for command in ["merge there there --force", "export there there --force"] {
        let said = desk.refused(command);
        assert!(said.contains("is the input"), "{said}");
    }
    fs::create_dir(desk.path("dir")).unwrap();
    let said = desk.refused("create dir --from image --force");
    assert!(said.contains("is not a file"), "{said}");
}

#[test]
fn sizes_that_are_none_say_what_to_do() {
    let desk = Desk::new();
    let mut image = noise(10_000, 1);
    desk.write("image", &image);
    let said = desk.refused("create out --from image");
    assert!(
        said.contains("not a multiple of 512; --size 10240 fills"),
        "{said}"
    );
    desk.done("create out --from image --size 10240");
    image.resize(10_240, 0);
    assert_eq!(desk.done("export out -"), image);
    desk.done("create short --from image --size 4K");
    assert_eq!(desk.done("export short -"), image[..4096]);
    desk.write("none", b"");
    let said = desk.refused("create new --from none");
    assert!(said.contains("none is empty"), "{said}");
    let said = desk.refused("create new --from image --size 65T");
    assert!(said.contains("more than the limit of"), "{said}");
    desk.ended("export l --to qcow2 -", 2);
    desk.ended("export l --to qcow2 --range 0-1 o", 2);
    desk.ended("diff --base l --from image o --granularity 513", 2);
    desk.ended("export l o --range 2-1", 2);
    desk.ended("create new --size 511", 2);
    let said = desk.ended("create new", 2);
    assert!(said.contains("give --from, or --size"), "{said}");
    let empty = desk.json("create empty --size 1T");
    assert_eq!(
        (&empty["data_bytes"], &empty["virtual_size_bytes"]),
        (&0.into(), &(1_u64 << 40).into())
    );
    let said = desk.refused("export out --range 10K+1 -");
    assert!(said.contains("leaves the disk"), "{said}");
}

#[test]
fn standard_input_is_a_disk() {
    let desk = Desk::new();
    let image = disk(3);
    let feed = |args: &str, bytes: &[u8]| {
        let mut command = desk.command(env!("CARGO_BIN_EXE_vbd"), args);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        // Who is refused does not read to the end.
        let _fed = child.stdin.take().unwrap().write_all(bytes);
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = feed("create kept --from -", &image);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = feed("create passed --from - --size 4M", &image);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(desk.read("kept"), desk.read("passed"));
    assert_eq!(desk.done("export kept -"), image);
    let (code, said) = feed("create out --from - --size 5M", &image);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("standard input ends at byte 4194304"),
        "{said}"
    );
    let (code, said) = feed("create out --from - --size 3M", &image);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("standard input goes on at byte 3145728"),
        "{said}"
    );
    assert_eq!(desk.names(), ["kept", "passed"]);
}

/// A qcow2 header that refers to another file, in the place where the format has it.
fn with_backing_file(desk: &Desk) {
    desk.write("image.raw", &disk(4));
    desk.done("create layer --from image.raw");
    desk.done("export layer --to qcow2 top.qcow2");
    let file = File::options()
        .write(true)
        .open(desk.path("top.qcow2"))
        .unwrap();
    let name = b"image.raw";
    file.write_all_at(name, 1024).unwrap();
    file.write_all_at(&[0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 9], 8)
        .unwrap();
}

#[test]
fn what_a_guest_wrote_does_not_decide_how_an_image_is_read() {
    let desk = Desk::new();
    with_backing_file(&desk);
    fs::rename(desk.path("top.qcow2"), desk.path("guest.img")).unwrap();
    let said = desk.refused("create out --from guest.img");
    assert!(
        said.contains("is taken as raw but begins like qcow2: say which it is"),
        "{said}"
    );
    desk.done("create out --from guest.img --format raw");
    assert_eq!(desk.done("export out -"), desk.read("guest.img"));
    let said = desk.refused("create new --from guest.img --format qcow2");
    assert!(
        said.contains("refers to another file (image.raw)"),
        "{said}"
    );
    assert!(said.contains("--allow-backing"), "{said}");
    // Even where that is allowed, the format of the other file is not guessed.
    let said = desk.refused("create new --from guest.img --format qcow2 --allow-backing");
    assert!(said.contains("does not say which format"), "{said}");
    desk.write(
        "text.vmdk",
        b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\" 0\n",
    );
    if desk.tool("qemu-img", "--version") {
        let said = desk.refused("create new --from text.vmdk");
        assert!(
            said.contains("it names the files that hold its data"),
            "{said}"
        );
    }
    desk.write("broken.qcow2", b"QFI\xfb and nothing else");
    let said = desk.refused("create new --from broken.qcow2");
    assert!(
        said.contains("broken.qcow2 cannot be read as qcow2"),
        "{said}"
    );
}

#[test]
fn images_of_others_are_read_as_they_read_them() {
    let desk = Desk::new();
    let mut image = disk(6);
    image.truncate((4 << 20) - 512);
    desk.write("image", &image);
    if !desk.tool("qemu-img", "--version") {
        return;
    }
    let forms = [
        ("plain.qcow2", "-O qcow2"),
        ("packed.qcow2", "-c -O qcow2"),
        ("zstd.qcow2", "-c -O qcow2 -o compression_type=zstd"),
        ("small.qcow2", "-O qcow2 -o cluster_size=4096"),
        ("old.qcow2", "-O qcow2 -o compat=0.10"),
        ("disk.vmdk", "-O vmdk"),
        ("stream.vmdk", "-O vmdk -o subformat=streamOptimized"),
        ("disk.vhdx", "-O vhdx"),
    ];
    for (name, how) in forms {
        desk.tool("qemu-img", &format!("convert -f raw {how} image {name}"));
        let made = desk.json(&format!("create {name}.lsmt --from {name}"));
        let size = usize::try_from(made["virtual_size_bytes"].as_u64().unwrap()).unwrap();
        // Some formats have only disks of whole units.
        assert!(
            size >= image.len() && size < image.len() + (8 << 20),
            "{name}: {size}"
        );
        let mut expected = image.clone();
        expected.resize(size, 0);
        assert!(
            desk.done(&format!("export {name}.lsmt -")) == expected,
            "{name}"
        );
    }
    desk.tool(
        "qemu-img",
        "create -q -f qcow2 -b plain.qcow2 -F qcow2 chain.qcow2 6M",
    );
    let mut write = desk.command("qemu-io", "chain.qcow2");
    write.args(["-c", "write -P 7 4M 4k"]);
    assert!(write.output().unwrap().status.success());
    desk.refused("create new --from chain.qcow2");
    desk.done("create chain --from chain.qcow2 --allow-backing");
    let mut changed = image.clone();
    changed.resize(6 << 20, 0);
    changed[4 << 20..][..4096].fill(7);
    assert!(desk.done("export chain -") == changed);

    desk.done("export plain.qcow2.lsmt --to qcow2 back.qcow2");
    desk.tool("qemu-img", "check -q back.qcow2");
    desk.tool("qemu-img", "compare -q -f raw -F qcow2 image back.qcow2");
    assert_eq!(desk.names().iter().find(|name| name.starts_with('.')), None);
}

#[test]
fn a_directory_becomes_a_file_system() {
    let desk = Desk::new();
    let root = desk.path("root");
    fs::create_dir_all(root.join("etc dir")).unwrap();
    fs::write(root.join("etc dir/a \"b\""), b"hello").unwrap();
    fs::write(root.join("large"), noise(300_000, 1)).unwrap();
    symlink("large", root.join("link")).unwrap();
    let old = File::options()
        .write(true)
        .open(root.join("large"))
        .unwrap();
    old.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000))
        .unwrap();

    let said = desk.refused("create root/out --from root");
    assert!(
        said.contains("lies in root, which it is made from"),
        "{said}"
    );
    if desk.tool("mkfs.ext4", "-V") {
        desk.done("create first --from root --fs ext4");
        fs::read(root.join("large")).unwrap();
        desk.done("create second --from root");
        assert!(
            desk.read("first") == desk.read("second"),
            "reading changes times of access"
        );
        desk.done("export first image");
        desk.tool("e2fsck", "-fn image");
        let debugfs = |request: &str| {
            let mut debugfs = desk.command("debugfs", "image");
            debugfs.args(["-R", request]).output().unwrap().stdout
        };
        assert!(debugfs("cat /large") == noise(300_000, 1));
        // Times of content, access and inode.
        let stat = String::from_utf8(debugfs("stat /large")).unwrap();
        assert_eq!(stat.matches("0x000f4240").count(), 3, "{stat}");
        let said = desk.refused("create third --from root --size 512K");
        assert!(said.contains("give a larger --size"), "{said}");
    }
    if desk.tool("mkfs.erofs", "--help") {
        desk.done("create first.erofs --from root --fs erofs");
        desk.done("create second.erofs --from root --fs erofs");
        assert!(desk.read("first.erofs") == desk.read("second.erofs"));
    }
    assert_eq!(desk.names().iter().find(|name| name.starts_with('.')), None);
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let desk = Desk::new();
    fs::create_dir(desk.path("root")).unwrap();
    desk.write("image.vhdx", &noise(5000, 1));
    let empty = desk.path("bin");
    fs::create_dir(&empty).unwrap();
    for (args, package) in [
        ("create out --from root", "e2fsprogs"),
        ("create out --from root --fs erofs", "erofs-utils"),
        ("create out --from image.vhdx", "qemu-utils"),
    ] {
        let mut command = desk.command(env!("CARGO_BIN_EXE_vbd"), args);
        let output = command.env("PATH", &empty).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("install the package {package}")),
            "{said}"
        );
    }
    assert_eq!(desk.names(), ["bin", "image.vhdx", "root"]);
}

/// A program in place of mkfs that says that it runs, and then does nothing.
#[test]
fn a_signal_leaves_nothing_behind() {
    let desk = Desk::new();
    fs::create_dir(desk.path("root")).unwrap();
    let bin = desk.path("bin");
    fs::create_dir(&bin).unwrap();
    let script =
        "#!/bin/sh\necho $$ > ../started.new\nmv ../started.new ../started\nexec sleep 60\n";
    fs::write(
        bin.join("mkfs.ext4"),
        script.replace("..", desk.dir.path().to_str().unwrap()),
    )
    .unwrap();
    fs::set_permissions(bin.join("mkfs.ext4"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = desk.command(env!("CARGO_BIN_EXE_vbd"), "create out --from root");
    let mut vbd = command.env("PATH", path).spawn().unwrap();
    let waiting = Instant::now();
    while !desk.path("started").exists() {
        assert!(
            waiting.elapsed() < Duration::from_secs(60),
            "mkfs never ran"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    desk.tool("kill", &format!("-INT {}", vbd.id()));
    assert_eq!(vbd.wait().unwrap().code(), Some(130));
    assert_eq!(desk.names(), ["bin", "root", "started"]);
    let mkfs = String::from_utf8(desk.read("started")).unwrap();
    let mkfs = Path::new("/proc").join(mkfs.trim());
    while fs::read_to_string(mkfs.join("comm")).is_ok_and(|name| name.trim() == "sleep") {
        assert!(waiting.elapsed() < Duration::from_secs(50), "mkfs goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let desk = Desk::new();
    desk.write("image", &noise(4 << 20, 1));
    desk.done("create whole --from image");
    let vbd = env!("CARGO_BIN_EXE_vbd");
    for args in [
        "create out --from image",
        "create out --from image --algorithm lz4",
        "export whole out",
        "export whole --to qcow2 out",
        "merge whole out",
    ] {
        // Units of 512 bytes or 1 KiB, as shells go.
        let mut command = desk.command("sh", "-c");
        let output = command
            .arg(format!("ulimit -f 2000; exec {vbd} {args}"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args}: {said}");
        assert!(
            said.contains("cannot write out") && said.contains("File too large"),
            "{said}"
        );
        assert_eq!(desk.names(), ["image", "whole"]);
    }
}

#[test]
fn damage_is_named_where_it_is() {
    let desk = Desk::new();
    desk.write("image", &disk(1));
    desk.done("create layer --from image --algorithm lz4");
    let file = File::options()
        .write(true)
        .open(desk.path("layer"))
        .unwrap();
    file.write_all_at(b"damage", 20_000).unwrap();
    for args in [
        "export layer out",
        "merge layer out",
        "commit layer out",
        "diff --base layer --from image out",
    ] {
        let said = desk.refused(args);
        assert!(
            said.contains("layer 0 (layer)") && said.contains("block"),
            "{args}: {said}"
        );
    }
    desk.write("short", &desk.read("layer")[..30_000]);
    let said = desk.refused("merge short out");
    assert!(said.contains("layer 0 (short)"), "{said}");
}

#[test]
fn the_golden_read_write_layer_is_committed() {
    use sha2::{Digest, Sha256};
    let goldens = std::env::var_os("VBD_GOLDENS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens"),
        PathBuf::from,
    );
    let set = goldens.join("G2-rw-unsealed");
    if !set.is_dir() {
        return skip(&set.display().to_string());
    }
    let desk = Desk::new();
    symlink(set.canonicalize().unwrap(), desk.path("set")).unwrap();
    let made = desk.json("commit set out");
    assert_eq!(made["uuid"], "6DAD2C6C-413F-44F9-8FBC-130E33583B0A");
    desk.done("commit set/writable_data set/writable_index pair");
    assert_eq!(desk.read("out"), desk.read("pair"));
    let hex: String = Sha256::digest(desk.done("export out -"))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hex,
        "60b9996efc5970376fd60a3a82dac4e3ff5015ae43aeb03b1201c382d85e51aa"
    );
    let said = desk.refused("commit set/writable_index set/writable_data new");
    assert!(said.contains("index file of a read-write layer"), "{said}");
    let said = desk.refused("commit set/writable_data new");
    assert!(said.contains("never sealed"), "{said}");
}
