//! Paths and other texts in messages.

use std::fmt::{self, Write};
use std::path::Path;

/// A path as a message shows it: on one line, with control characters escaped, for a path may hold anything and a
/// message may end up on a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ShownText(&self.0.to_string_lossy()).fmt(f)
    }
}

/// Any text from outside, shown in the same way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownText<'a>(pub(crate) &'a str);

impl fmt::Display for ShownText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_on_their_line_and_legible() {
        for (path, shown) in [
            ("/a b/ü.lsmt", "/a b/ü.lsmt"),
            ("a\nb", "a\\nb"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("it's \"quoted\"", "it's \"quoted\""),
        ] {
            assert_eq!(Shown(Path::new(path)).to_string(), shown);
        }
    }
}
