//! The document and the tests it names.
