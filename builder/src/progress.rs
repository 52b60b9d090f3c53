//! How far things have come.

/// Somebody who wants to know how far something has come.
pub trait Progress: Sync {
    /// Something begins: `what` for people, and how many bytes it will handle, where that is known.
    fn begin(&self, what: &str, total_bytes: Option<u64>);

    /// So many bytes more have been handled.
    fn advance(&self, len_bytes: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn begin(&self, _what: &str, _total_bytes: Option<u64>) {}

    fn advance(&self, _len_bytes: u64) {}
}
