//! Bytes on disk: a version, a checksum, and what was meant.

/// The version of the envelope; what is inside has its own, by the data directory's format.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;

/// Why bytes are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Shorter than the envelope.
    #[error("it is {0} bytes short of its header")]
    Short(usize),
    /// An envelope of another version.
    #[error("its envelope has version {0}")]
    Version(u8),
    /// Another checksum.
    #[error("its checksum is {found:08x}, and {written:08x} was written")]
    Checksum {
        /// Of the bytes that are there.
        found: u32,
        /// Of the bytes that were written.
        written: u32,
    },
}

/// Wraps a value.
pub fn seal(value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + value.len());
    bytes.push(VERSION);
    bytes.extend(crc32fast::hash(value).to_be_bytes());
    bytes.extend(value);
    bytes
}

/// Unwraps a value, or says why it is not what was written.
pub fn unseal(bytes: &[u8]) -> Result<Vec<u8>, UnsealError> {
    let [version, sum @ ..] = bytes else { return Err(UnsealError::Short(HEADER_BYTES)) };
    if *version != VERSION {
        return Err(UnsealError::Version(*version));
    }
    let Some((sum, value)) = sum.split_first_chunk::<4>() else {
        return Err(UnsealError::Short(HEADER_BYTES - bytes.len()));
    };
    let (written, found) = (u32::from_be_bytes(*sum), crc32fast::hash(value));
    if written == found {
        Ok(value.to_vec())
    } else {
        Err(UnsealError::Checksum { found, written })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let sealed = seal(b"a value");
        assert_eq!(unseal(&sealed).unwrap(), b"a value");
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal(&sealed[..length]).is_err(), "length {length}");
        }
    }
}
