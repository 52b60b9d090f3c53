//! A survey in words.

use std::fmt::{Formatter, Result};

use builder::{DiskSurvey, LayerSurvey, LsmtFacts, Share, Survey, SurveyedLayer};
use image::Shown;

use crate::size::{Count, Percent, Size};

/// Everything, the disk first.
pub(super) fn survey(f: &mut Formatter<'_>, survey: &Survey) -> Result {
    match (&survey.disk, &survey.stack_error) {
        (Some(disk), _) => self::disk(f, disk, survey.layers.len())?,
        (None, Some(error)) => writeln!(f, "no disk: {error}")?,
        (None, None) => writeln!(f, "no disk: a layer cannot be opened")?,
    }
    for warning in &survey.chain_warnings {
        line(f, "warning", warning)?;
    }
    for layer in &survey.layers {
        writeln!(f)?;
        self::layer(f, layer, survey)?;
    }
    Ok(())
}

fn line(f: &mut Formatter<'_>, what: &str, text: impl std::fmt::Display) -> Result {
    writeln!(f, "  {what:<10}{text}")
}

fn disk(f: &mut Formatter<'_>, disk: &DiskSurvey, layers: usize) -> Result {
    writeln!(
        f,
        "disk of {} ({} bytes), {}, {}",
        Size(disk.len_bytes),
        disk.len_bytes,
        Count(layers as u64, "layer"),
        Count(disk.segment_count as u64, "segment")
    )?;
    let share = |part| Percent {
        part,
        whole: disk.len_bytes,
    };
    line(
        f,
        "content",
        format_args!(
            "data {} ({}), zeroed {} ({}), holes {} ({})",
            Size(disk.data_bytes),
            share(disk.data_bytes),
            Size(disk.zeroed_bytes),
            share(disk.zeroed_bytes),
            Size(disk.hole_bytes),
            share(disk.hole_bytes)
        ),
    )?;
    line(
        f,
        "memory",
        format_args!(
            "index {}, jump tables {} while it is served",
            Size(disk.index_memory_bytes),
            Size(disk.jump_table_memory_bytes)
        ),
    )
}

fn layer(f: &mut Formatter<'_>, layer: &SurveyedLayer, survey: &Survey) -> Result {
    writeln!(f, "layer {}: {}", layer.ordinal, Shown(&layer.path))?;
    if let Some(error) = &layer.error {
        line(f, "error", error)?;
    }
    if let Some(facts) = &layer.facts {
        self::facts(f, facts)?;
    }
    if let (Some(share), Some(disk)) = (&layer.share, &survey.disk) {
        self::share(f, share, disk)?;
    }
    let warnings = layer.facts.iter().flat_map(|facts| &facts.warnings);
    for warning in warnings {
        line(f, "warning", warning)?;
    }
    Ok(())
}

fn facts(f: &mut Formatter<'_>, facts: &LayerSurvey) -> Result {
    let tar = match facts.tar {
        Some(form) => format!(" in tar ({form})"),
        None => String::new(),
    };
    let file = Size(facts.file_len_bytes);
    let len_bytes = facts.file_len_bytes;
    match &facts.zfile {
        None => line(
            f,
            "file",
            format_args!("{file} ({len_bytes} bytes), plain{tar}"),
        )?,
        Some(zfile) => {
            line(
                f,
                "file",
                format_args!("{file} ({len_bytes} bytes), ZFile{tar}"),
            )?;
            let verify = match zfile.verify {
                true => "with checksums",
                false => "WITHOUT checksums",
            };
            line(
                f,
                "zfile",
                format_args!(
                    "{}, {} of {} {verify}; metadata from the {}{}",
                    zfile.algorithm,
                    Count(zfile.block_count, "block"),
                    Size(u64::from(zfile.block_size_bytes)),
                    zfile.metadata,
                    if zfile.has_digest {
                        ""
                    } else {
                        ", without digest"
                    }
                ),
            )?;
            line(
                f,
                "ratio",
                format_args!(
                    "{:.2}: {} of content in {}",
                    zfile.ratio(),
                    Size(zfile.content_bytes),
                    Size(zfile.stored_bytes)
                ),
            )?;
        }
    }
    lsmt(f, &facts.lsmt)
}

fn lsmt(f: &mut Formatter<'_>, lsmt: &LsmtFacts) -> Result {
    let form = match lsmt.form {
        "sealed" => "sealed in place",
        "sparse" => "sealed from a sparse file",
        form => form,
    };
    let size = match lsmt.virtual_size_bytes {
        0 => "left to the layers below".to_owned(),
        bytes => Size(bytes).to_string(),
    };
    line(
        f,
        "lsmt",
        format_args!("{form}, version {}, virtual size {size}", lsmt.version),
    )?;
    let named = |uuid: &Option<String>| uuid.clone().unwrap_or_else(|| "none".to_owned());
    let parent = named(&lsmt.parent_uuid);
    line(
        f,
        "uuid",
        format_args!("{}, parent {parent}", named(&lsmt.uuid)),
    )?;
    if !lsmt.user_tag.is_empty() {
        line(f, "tag", &lsmt.user_tag)?;
    }
    let tags = if lsmt.tags_present { ", tagged" } else { "" };
    line(
        f,
        "index",
        format_args!(
            "{} records, {} of them segments{tags}: data {}, zeroed {}",
            lsmt.record_count,
            lsmt.segment_count,
            Size(lsmt.data_bytes),
            Size(lsmt.zeroed_bytes)
        ),
    )?;
    let classes = (0_u32..)
        .zip(lsmt.size_classes)
        .filter(|(_, count)| *count > 0);
    let classes = classes.map(|(class, count)| format!("{} {count}", Size(512 << class)));
    let classes: Vec<_> = classes.collect();
    if classes.is_empty() {
        return Ok(());
    }
    line(f, "lengths", format_args!("from {}", classes.join(", ")))
}

fn share(f: &mut Formatter<'_>, share: &Share, disk: &DiskSurvey) -> Result {
    let part = share.data_bytes + share.zeroed_bytes;
    let percent = Percent {
        part,
        whole: disk.len_bytes,
    };
    line(
        f,
        "seen",
        format_args!(
            "data {}, zeroed {} in {}: {percent} of the disk",
            Size(share.data_bytes),
            Size(share.zeroed_bytes),
            Count(share.segment_count as u64, "segment")
        ),
    )?;
    line(
        f,
        "dead",
        format_args!(
            "{} of stored data: {} hidden, {} unused; {} hidden",
            Size(share.dead_bytes()),
            Size(share.hidden_bytes),
            Size(share.unused_bytes),
            Count(share.hidden_records as u64, "record")
        ),
    )
}
