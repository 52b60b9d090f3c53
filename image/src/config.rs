//! containerd's `config.v1.json`: which layers make an image.
//!
//! The overlaybd snapshotter writes one such file for each snapshot. Only what concerns local, read-only layers
//! is used; keys that are unknown are passed over, as every reader of this file does. Whatever would change the
//! content of the disk and is not supported is refused by name.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::shown::ShownText;

/// A configuration of 255 layers is about 100 KB; this leaves room for long paths and unknown keys.
const MAX_CONFIG_LEN_BYTES: u64 = 4 << 20;

/// Where the file of a layer may lie inside its directory, in the order they are tried.
const LAYER_FILE_NAMES: [&str; 3] = ["overlaybd.commit", ".commit", "overlaybd.sealed"];

/// The layers an image configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// Paths of the layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// What is stated about the blobs of these layers, in the same order.
    pub stated: Vec<StatedBlob>,
    /// Keys that were present and have no effect here, worth a line in a log.
    pub notes: Vec<String>,
}

/// What a configuration states about the blob of a layer. Nothing here checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatedBlob {
    /// `sha256:` and 64 hexadecimal digits, by custom; any text is possible.
    pub digest: Option<String>,
    /// Length of the blob in bytes.
    pub size_bytes: Option<u64>,
}

/// Why an image configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// It is larger than any honest configuration.
    #[error(
        "is larger than {MAX_CONFIG_LEN_BYTES} bytes, the most an image configuration may have"
    )]
    TooLarge,
    /// It is not the JSON that is expected.
    #[error("is not a valid image configuration")]
    Json(#[source] serde_json::Error),
    /// A list stands where names and values belong.
    #[error("is not a valid image configuration: {place} is not an object")]
    NotAnObject {
        /// Where.
        place: String,
    },
    /// It names no layer.
    #[error("names no layer: `lowers` is empty")]
    NoLayers,
    /// The image has a writable layer.
    #[error("has a writable `upper` layer: only read-only images can be served")]
    Writable,
    /// A layer of the turboOCI kind.
    #[error("lowers[{position}]: `{key}` is set: turboOCI layers are not supported")]
    TurboOci {
        /// Position in `lowers`.
        position: usize,
        /// The key that says so.
        key: &'static str,
    },
    /// A layer that is not on this machine.
    #[error("lowers[{position}]: {place}: remote layers are not supported, fetch the blob first")]
    Remote {
        /// Position in `lowers`.
        position: usize,
        /// Where it was looked for, and its digest.
        place: String,
    },
    /// A layer whose directory cannot be searched.
    #[error("lowers[{position}]: cannot look into `dir` {dir}")]
    Directory {
        /// Position in `lowers`.
        position: usize,
        /// The directory.
        dir: String,
        /// Why not.
        source: io::Error,
    },
    /// A layer without any hint where it is.
    #[error("lowers[{position}]: neither `file` nor `dir` nor `digest` is set")]
    Nowhere {
        /// Position in `lowers`.
        position: usize,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    lowers: Option<Vec<RawLower>>,
    #[serde(default)]
    upper: Option<RawUpper>,
    #[serde(default)]
    acceleration_layer: Option<bool>,
    #[serde(default)]
    record_trace_path: Option<String>,
    #[serde(default)]
    result_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLower {
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    dir: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    /// Whatever stands there, for nothing depends on it.
    #[serde(default)]
    size: serde_json::Value,
    #[serde(default)]
    target_file: Option<String>,
    #[serde(default)]
    target_digest: Option<String>,
    #[serde(default)]
    gzip_index: Option<String>,
}

#[derive(Deserialize)]
struct RawUpper {
    #[serde(default)]
    index: Option<String>,
    #[serde(default)]
    data: Option<String>,
}

impl ImageConfig {
    /// Reads the configuration at `path`. Relative layer paths count from the directory it lies in.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is not a configuration, or asks for what is not supported.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut text = Vec::new();
        // A pipe is fine, but opening one that nobody writes to must not wait; reading it ends at once.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(ConfigError::Read)?;
        rustix::fs::fcntl_setfl(&file, OFlags::empty())
            .map_err(|error| ConfigError::Read(error.into()))?;
        file.take(MAX_CONFIG_LEN_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(ConfigError::Read)?;
        if text.len() as u64 > MAX_CONFIG_LEN_BYTES {
            return Err(ConfigError::TooLarge);
        }
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Parses the text of a configuration whose relative paths count from `base`.
    ///
    /// # Errors
    ///
    /// As for [`ImageConfig::load`].
    pub fn parse(text: &[u8], base: &Path) -> Result<Self, ConfigError> {
        demand_objects(text)?;
        let raw: Raw = serde_json::from_slice(text).map_err(ConfigError::Json)?;
        if raw
            .upper
            .is_some_and(|upper| given(upper.index).is_some() && given(upper.data).is_some())
        {
            return Err(ConfigError::Writable);
        }
        let mut lowers = raw.lowers.unwrap_or_default();
        let mut notes = Vec::new();
        if raw.acceleration_layer == Some(true) && lowers.pop().is_some() {
            notes.push(
                "the last lower is an acceleration layer: left out, its trace is not replayed"
                    .to_owned(),
            );
        }
        if given(raw.record_trace_path).is_some() {
            notes.push(
                "`recordTracePath` has no effect: traces are neither recorded nor replayed"
                    .to_owned(),
            );
        }
        if given(raw.result_file).is_some() {
            notes.push(
                "`resultFile` is not written: success is the socket, failure the exit status"
                    .to_owned(),
            );
        }
        if lowers.is_empty() {
            return Err(ConfigError::NoLayers);
        }
        let stated = lowers.iter().map(stated).collect();
        let locate = |(position, lower)| locate_layer(position, lower, base);
        let layers = lowers
            .into_iter()
            .enumerate()
            .map(locate)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            layers,
            stated,
            notes,
        })
    }
}

/// The parser takes a list for an object, value by value in the order its fields are declared here, which no writer of
/// such files means.
fn demand_objects(text: &[u8]) -> Result<(), ConfigError> {
    use serde_json::Value;
    let config: Value = serde_json::from_slice(text).map_err(ConfigError::Json)?;
    let demand = |value: &Value, place: &dyn Fn() -> String| match value {
        Value::Array(_) => Err(ConfigError::NotAnObject { place: place() }),
        // Whatever else is wrong, the parser says better.
        _ => Ok(()),
    };
    demand(&config, &|| "all of it".to_owned())?;
    if let Some(upper) = config.get("upper") {
        demand(upper, &|| "`upper`".to_owned())?;
    }
    let lowers = config.get("lowers").and_then(Value::as_array);
    for (position, lower) in lowers.into_iter().flatten().enumerate() {
        demand(lower, &|| format!("lowers[{position}]"))?;
    }
    Ok(())
}

/// A layer as [`config_text`] writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigLayer {
    /// Path of its file. Relative ones count from the directory of the configuration, for readers like this one; the
    /// reference knows only absolute ones.
    pub file: String,
    /// What to state about it.
    pub stated: StatedBlob,
}

/// A configuration for layers that are local files, lowest first: as [`ImageConfig::parse`] and the readers of other
/// makes take it.
#[must_use]
pub fn config_text(layers: &[ConfigLayer]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Written<'a> {
        repo_blob_url: &'a str,
        lowers: Vec<WrittenLower<'a>>,
    }
    #[derive(Serialize)]
    struct WrittenLower<'a> {
        file: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
    }
    let lowers = layers.iter().map(|layer| WrittenLower {
        file: &layer.file,
        digest: layer.stated.digest.as_deref(),
        size: layer.stated.size_bytes,
    });
    let written = Written {
        repo_blob_url: "",
        lowers: lowers.collect(),
    };
    // Texts and numbers always have a form in JSON.
    let text = serde_json::to_string_pretty(&written).unwrap_or_default();
    format!("{text}\n")
}

/// A string that is present and not empty; writers of this file use both ways to say "none".
fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// Writers that know no size leave it out or write 0.
fn stated(lower: &RawLower) -> StatedBlob {
    StatedBlob {
        digest: given(lower.digest.clone()),
        size_bytes: lower.size.as_u64().filter(|size| *size > 0),
    }
}

fn locate_layer(position: usize, lower: RawLower, base: &Path) -> Result<PathBuf, ConfigError> {
    let turbo = [
        ("targetFile", lower.target_file),
        ("targetDigest", lower.target_digest),
        ("gzipIndex", lower.gzip_index),
    ];
    for (key, value) in turbo {
        if given(value).is_some() {
            return Err(ConfigError::TurboOci { position, key });
        }
    }
    // A stated file is final: falling back to something else would serve another layer than was asked for.
    if let Some(file) = given(lower.file) {
        return Ok(base.join(file));
    }
    let dir = given(lower.dir);
    if let Some(dir) = &dir {
        for path in LAYER_FILE_NAMES.map(|name| base.join(dir).join(name)) {
            match path.try_exists() {
                Ok(true) => return Ok(path),
                Ok(false) => {}
                // It may be there: to say that it is somewhere else would send people the wrong way.
                Err(source) => {
                    let dir = ShownText(dir).to_string();
                    return Err(ConfigError::Directory {
                        position,
                        dir,
                        source,
                    });
                }
            }
        }
    }
    let place = match (dir, given(lower.digest)) {
        (None, None) => return Err(ConfigError::Nowhere { position }),
        (Some(dir), digest) => {
            let digest =
                digest.map_or_else(String::new, |digest| format!(" of {}", ShownText(&digest)));
            let dir = ShownText(&dir);
            format!("no {} in `dir` {dir}{digest}", LAYER_FILE_NAMES.join(", "))
        }
        (None, Some(digest)) => format!("only `digest` {} is set", ShownText(&digest)),
    };
    Err(ConfigError::Remote { position, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stated_is_kept_in_order_and_odd_sizes_are_passed_over() {
        let config = parse(
            r#"{"lowers":[{"file":"/a","digest":"sha256:00","size":7},{"file":"/b","digest":"","size":0},
                          {"file":"/c","size":"7"},{"file":"/d","size":-7}]}"#,
        );
        let stated = config.unwrap().stated;
        assert_eq!(stated[0].digest.as_deref(), Some("sha256:00"));
        assert_eq!(stated[0].size_bytes, Some(7));
        assert_eq!(stated[1..], vec![StatedBlob::default(); 3]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let layer = |file: &str, digest: Option<&str>, size_bytes| ConfigLayer {
            file: file.to_owned(),
            stated: StatedBlob {
                digest: digest.map(str::to_owned),
                size_bytes,
            },
        };
        let layers = [
            layer("/a/\"b\" c", None, None),
            layer("rel", Some("sha256:00"), Some(7)),
        ];
        let text = config_text(&layers);
        let config = parse(&text).unwrap();
        assert_eq!(
            config.layers,
            [Path::new("/a/\"b\" c"), Path::new("/images/rel")]
        );
        assert_eq!(config.stated[1], layers[1].stated);
        assert!(config.notes.is_empty());
        assert!(text.starts_with("{\n  \"repoBlobUrl\": \"\",") && text.ends_with("}\n"));
    }

    fn parse(json: &str) -> Result<ImageConfig, ConfigError> {
        ImageConfig::parse(json.as_bytes(), Path::new("/images"))
    }

    #[test]
    fn lists_are_no_objects() {
        for (json, place) in [
            (r#"[[{"file": "/a"}]]"#, "all of it"),
            (r#"{"lowers": [["/a"]]}"#, "lowers[0]"),
            (r#"{"lowers": [{"file": "/a"}, ["/b"]]}"#, "lowers[1]"),
            (r#"{"lowers": [], "upper": ["a", "b"]}"#, "`upper`"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(place), "{json}: {error}");
        }
    }

    #[test]
    fn texts_of_the_configuration_stay_on_their_line() {
        let error = parse(r#"{"lowers": [{"digest": "sha256:a\nb", "dir": "/c\u001bd"}]}"#);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("a\\nb") && error.contains("/c\\u{1b}d"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn configuration_may_come_through_a_pipe_and_an_idle_one_does_not_wait() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let (out, into) = rustix::pipe::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", out.as_raw_fd()));
        let writer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::File::from(into)
                .write_all(br#"{"lowers": [{"file": "/a"}]}"#)
                .unwrap();
        });
        assert_eq!(ImageConfig::load(&path).unwrap().layers, [Path::new("/a")]);
        writer.join().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        assert!(matches!(
            ImageConfig::load(&fifo),
            Err(ConfigError::Json(_))
        ));
    }

    #[test]
    fn files_and_directories_are_found_lowest_first() {
        let dir = tempfile::tempdir().unwrap();
        let layer_dir = dir.path().join("fs");
        std::fs::create_dir(&layer_dir).unwrap();
        std::fs::write(layer_dir.join("overlaybd.sealed"), b"").unwrap();
        let json = format!(
            r#"{{"repoBlobUrl":"https://r/v2/x/blobs","unknown":{{"a":[1]}},"upper":{{"index":"","data":""}},
                "lowers":[{{"file":"/a/base"}},{{"file":"rel","digest":"sha256:00","size":7}},
                          {{"file":"","dir":{layer_dir:?}}}]}}"#
        );
        let config = parse(&json).unwrap();
        let sealed = layer_dir.join("overlaybd.sealed");
        assert_eq!(
            config.layers,
            [Path::new("/a/base"), Path::new("/images/rel"), &sealed]
        );
        assert!(config.notes.is_empty());
        // A committed layer is preferred to a sealed one.
        std::fs::write(layer_dir.join("overlaybd.commit"), b"").unwrap();
        assert_eq!(
            parse(&json).unwrap().layers[2],
            layer_dir.join("overlaybd.commit")
        );
    }

    #[test]
    fn acceleration_layer_is_left_out_and_said_so() {
        let config = parse(
            r#"{"lowers":[{"file":"/a"},{"dir":"/t"}],"accelerationLayer":true,"resultFile":"/r"}"#,
        );
        let config = config.unwrap();
        assert_eq!(config.layers, [Path::new("/a")]);
        assert_eq!(config.notes.len(), 2);
        let only = parse(r#"{"lowers":[{"dir":"/t"}],"accelerationLayer":true}"#);
        assert!(matches!(only, Err(ConfigError::NoLayers)));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (json, expected) in [
            (
                r#"{"lowers":[{"digest":"sha256:ab"}]}"#,
                "lowers[0]: only `digest` sha256:ab is set: remote layers",
            ),
            (
                r#"{"lowers":[{"file":"/a"},{"dir":"/no-such","digest":"sha256:ab"}]}"#,
                "lowers[1]: no overlaybd.commit",
            ),
            (
                r#"{"lowers":[{"file":"/a","targetFile":"/t"}]}"#,
                "lowers[0]: `targetFile` is set: turboOCI",
            ),
            (
                r#"{"lowers":[{"file":"/a","targetDigest":"sha256:1"}]}"#,
                "lowers[0]: `targetDigest` is set: turboOCI",
            ),
            (
                r#"{"lowers":[{"file":"/a","gzipIndex":"/g"}]}"#,
                "lowers[0]: `gzipIndex` is set: turboOCI",
            ),
            (
                r#"{"lowers":[{"file":"/a"}],"upper":{"index":"/i","data":"/d"}}"#,
                "has a writable `upper`",
            ),
            (r#"{"lowers":[{}]}"#, "lowers[0]: neither"),
            (r#"{"lowers":[]}"#, "names no layer"),
            (r#"{"lowers":null}"#, "names no layer"),
            (r"{}", "names no layer"),
            (
                r#"{"lowers":[{"file":7}]}"#,
                "is not a valid image configuration",
            ),
            (r#"{"lowers":"#, "is not a valid image configuration"),
            ("", "is not a valid image configuration"),
        ] {
            let error = parse(json).expect_err(json).to_string();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn oversized_file_is_refused_before_it_is_parsed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_CONFIG_LEN_BYTES + 1).unwrap();
        assert!(matches!(
            ImageConfig::load(file.path()),
            Err(ConfigError::TooLarge)
        ));
        assert!(matches!(
            ImageConfig::load(Path::new("/no/such")),
            Err(ConfigError::Read(_))
        ));
    }
}
