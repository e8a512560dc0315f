//! The version that is needed to read a file: 16 bytes of ASCII behind its format
//! number, at the same place in every format, so that an older program can name it.

/// Bytes of the field.
pub(super) const LEN: usize = 16;

/// The field of a file that this program writes.
pub(super) fn field() -> [u8; LEN] {
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    std::array::from_fn(|at| version.get(at).copied().unwrap_or_default())
}

/// The field as a text.
pub(super) fn read(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_end_matches('\0').to_owned()
}
