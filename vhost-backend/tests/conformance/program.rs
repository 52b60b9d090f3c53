//! The program itself, in a directory of its own.
