//! Applying the tar file of a layer to a file system, as container runtimes do.
//!
//! Paths are followed in the file system being made and nowhere else. Where runtimes differ, this is what is done:
//!
//! - Paths are made clean first (`a/../b` is `b`, whatever `a` is) and cannot leave the root. Symbolic links in the
//!   directories of a path are followed, inside the root.
//! - A member replaces what stands there, with all that is below; but a directory that stands there is kept, and gets
//!   the attributes of the member.
//! - Directories that are missing on the way are made: mode 0755, owner 0, time 0.
//! - A whiteout hides what lower layers put there, never what its own layer puts there, before it or behind it.
//! - The attributes that stand with a hard link are those of the file from then on.
//! - Extended attributes that ext4 has no place for are left out; there is a remark about the first.

use std::io::Read;

use crate::ext4::{Attributes, Ext4Error, FileSystem, Found, Shape, Xattr, XattrError};
use crate::tar::{Member, MemberKind, Tar, TarError};

/// Symbolic links that are followed for one path.
pub const MAX_LINKS_FOLLOWED: usize = 255;
/// Names that are looked up for one path, those of links on the way included.
pub const MAX_NAMES_FOLLOWED: usize = 4096;
/// Most members of a layer.
pub const MAX_MEMBERS: u64 = 16 << 20;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What some builders kept for themselves begins so, too.
const WHITEOUT_OF_WHITEOUT: &[u8] = b".wh..wh.";

/// A layer that cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The tar file cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A member that cannot be applied.
    #[error("member {member:?}")]
    Member {
        /// Its path; bytes that are no text are replaced.
        member: String,
        /// What is wrong.
        source: MemberError,
    },
    /// Members without end.
    #[error("more than {MAX_MEMBERS} members")]
    TooManyMembers,
}

/// What is wrong with a member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// It is nothing that is known.
    #[error("members of the type {flag:?} are not supported")]
    Type {
        /// Its type flag.
        flag: char,
    },
    /// A part of its path is a file.
    #[error("a directory on the way is not a directory but a file: {name:?}")]
    NotADirectory {
        /// The part.
        name: String,
    },
    /// Links that lead around.
    #[error(
        "more than {MAX_LINKS_FOLLOWED} symbolic links or {MAX_NAMES_FOLLOWED} names on the way"
    )]
    TooLongAWay,
    /// A hard link to nothing.
    #[error("hard link to {target:?}, which does not exist in this layer or those below")]
    LinkTarget {
        /// Where it points to.
        target: String,
    },
    /// A whiteout of nothing that has a name.
    #[error("a whiteout of no name")]
    Whiteout,
    /// An extended attribute that is none.
    #[error("extended attribute {name:?}")]
    Xattr {
        /// Its name.
        name: String,
        /// What is wrong.
        source: XattrError,
    },
    /// The file system cannot hold it.
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
}

/// What has been applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) members: u64,
    /// Extended attributes that were left out, and the first of them.
    pub(crate) xattrs_left_out: u64,
    pub(crate) first_left_out: Option<String>,
}

/// Applies all members of a tar file. `progress` is told after each of them.
pub(crate) fn apply<R: Read>(
    tar: &mut Tar<R>,
    system: &mut FileSystem,
    mut progress: impl FnMut(&Tar<R>),
) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    while let Some(member) = tar.next_member()? {
        applied.members += 1;
        if applied.members > MAX_MEMBERS {
            return Err(ApplyError::TooManyMembers);
        }
        apply_member(tar, system, &member, &mut applied).map_err(|source| ApplyError::Member {
            member: shown(&member.path),
            source,
        })?;
        progress(tar);
    }
    Ok(applied)
}

fn apply_member(
    content: &mut dyn Read,
    system: &mut FileSystem,
    member: &Member,
    applied: &mut Applied,
) -> Result<(), MemberError> {
    let path = clean(&member.path);
    let Some((name, directories)) = path.split_last() else {
        // The root itself is always there.
        if member.kind == MemberKind::Directory {
            let root = system.root();
            system.set_attributes(root, attributes(member, applied)?)?;
        }
        return Ok(());
    };
    if name.starts_with(WHITEOUT_PREFIX) {
        return apply_whiteout(system, directories, name);
    }
    let attributes = attributes(member, applied)?;
    let parent = Way::follow(system, directories)?.make_missing(system)?;
    let there = system.look_up(parent, name);
    if member.kind == MemberKind::Directory
        && let Some(Found {
            inode,
            shape: Shape::Directory,
        }) = there
    {
        system.touch(parent, name);
        return Ok(system.set_attributes(inode, attributes)?);
    }
    if there.is_some() {
        system.remove(parent, name);
    }
    match member.kind {
        MemberKind::Directory => {
            system.make_directory(parent, name, attributes)?;
        }
        MemberKind::File => {
            let (len_bytes, segments) = (member.len_bytes, &member.segments);
            system.make_file((parent, name), attributes, len_bytes, segments, content)?;
        }
        MemberKind::Symlink => system.make_symlink(parent, name, attributes, &member.link)?,
        MemberKind::HardLink => {
            let target = link_target(system, &member.link)?;
            system.link(parent, name, target)?;
            system.set_attributes(target, attributes)?;
        }
        MemberKind::CharDevice | MemberKind::BlockDevice => {
            let is_block = member.kind == MemberKind::BlockDevice;
            system.make_device(parent, name, attributes, is_block, member.device)?;
        }
        MemberKind::Fifo => system.make_fifo(parent, name, attributes)?,
        MemberKind::Unknown(flag) => {
            return Err(MemberError::Type {
                flag: char::from(flag),
            });
        }
    }
    Ok(())
}

fn apply_whiteout(
    system: &mut FileSystem,
    directories: &[&[u8]],
    name: &[u8],
) -> Result<(), MemberError> {
    let hidden = &name[WHITEOUT_PREFIX.len()..];
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(MemberError::Whiteout);
    }
    // Where a directory is missing, or something else stands in its place, there is nothing to hide.
    let directory = match Way::follow(system, directories) {
        Ok(way) => way.existing(),
        Err(MemberError::NotADirectory { .. }) => None,
        Err(other) => return Err(other),
    };
    let Some(directory) = directory else {
        return Ok(());
    };
    if name == OPAQUE {
        system.clear_older(directory);
    } else if !name.starts_with(WHITEOUT_OF_WHITEOUT) {
        system.remove_older(directory, hidden);
    }
    Ok(())
}

fn link_target(system: &FileSystem, link: &[u8]) -> Result<u32, MemberError> {
    let missing = || MemberError::LinkTarget {
        target: shown(link),
    };
    let path = clean(link);
    let (name, directories) = path.split_last().ok_or_else(missing)?;
    let way = Way::follow(system, directories)?;
    let directory = way.existing().ok_or_else(missing)?;
    let found = system.look_up(directory, name).ok_or_else(missing)?;
    match found.shape {
        Shape::Directory => Err(Ext4Error::LinkToDirectory.into()),
        Shape::Symlink | Shape::Other => Ok(found.inode),
    }
}

/// The attributes of a member, as far as ext4 has a place for them.
fn attributes(member: &Member, applied: &mut Applied) -> Result<Attributes, MemberError> {
    let mut xattrs: Vec<Xattr> = Vec::new();
    for (name, value) in &member.xattrs {
        match Xattr::new(name, value) {
            Ok(xattr) => xattrs.push(xattr),
            Err(XattrError::Prefix) => {
                applied.xattrs_left_out += 1;
                applied.first_left_out.get_or_insert_with(|| shown(name));
            }
            Err(source) => {
                return Err(MemberError::Xattr {
                    name: shown(name),
                    source,
                });
            }
        }
    }
    xattrs.sort();
    Ok(Attributes {
        permissions: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs,
    })
}

/// A path without what is not needed: from the root, without empty parts and dots.
fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// A way through directories, as far as they exist.
#[derive(Debug)]
struct Way {
    /// The last directory that exists.
    directory: u32,
    /// Those below it that do not.
    missing: Vec<Vec<u8>>,
}

impl Way {
    /// Follows a clean path from the root, and symbolic links on the way.
    fn follow(system: &FileSystem, path: &[&[u8]]) -> Result<Self, MemberError> {
        let mut way = Self {
            directory: system.root(),
            missing: Vec::new(),
        };
        // What is still to be walked, last part first.
        let mut parts: Vec<Vec<u8>> = path.iter().rev().map(|part| part.to_vec()).collect();
        let (mut links, mut names) = (0, 0);
        while let Some(part) = parts.pop() {
            names += 1;
            if names > MAX_NAMES_FOLLOWED {
                return Err(MemberError::TooLongAWay);
            }
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if way.missing.pop().is_none() {
                        way.directory = system.parent(way.directory);
                    }
                    continue;
                }
                _ => {}
            }
            let found = match way.missing.is_empty() {
                true => system.look_up(way.directory, &part),
                false => None,
            };
            match found {
                None => way.missing.push(part),
                Some(found) if found.shape == Shape::Directory => way.directory = found.inode,
                Some(found) => {
                    let target = system.target(found.inode);
                    let target =
                        target.ok_or_else(|| MemberError::NotADirectory { name: shown(&part) })?;
                    links += 1;
                    if links > MAX_LINKS_FOLLOWED {
                        return Err(MemberError::TooLongAWay);
                    }
                    if target.starts_with(b"/") {
                        way.directory = system.root();
                    }
                    let ahead = target.split(|byte| *byte == b'/').rev();
                    parts.extend(ahead.map(<[u8]>::to_vec));
                }
            }
        }
        Ok(way)
    }

    /// Where it leads to, if it is there whole.
    fn existing(&self) -> Option<u32> {
        self.missing.is_empty().then_some(self.directory)
    }

    /// Makes what is missing.
    fn make_missing(self, system: &mut FileSystem) -> Result<u32, MemberError> {
        let mut directory = self.directory;
        for name in &self.missing {
            let attributes = Attributes {
                permissions: 0o755,
                ..Attributes::default()
            };
            directory = system.make_directory(directory, name, attributes)?;
        }
        Ok(directory)
    }
}

/// A path for people.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_paths_stay_inside() {
        for (path, parts) in [
            ("a/b", vec!["a", "b"]),
            ("./a//b/.", vec!["a", "b"]),
            ("/a/../../b/", vec!["b"]),
            ("../../..", vec![]),
            ("", vec![]),
        ] {
            let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            assert_eq!(clean(path.as_bytes()), parts, "{path}");
        }
    }
}
