//! Cuts a content into parts. Pure: bytes in, parts out.
//!
//! A part is handed out only when it is known whether it is the last: so a full one waits for the first byte after it.

use bytes::{Bytes, BytesMut};

/// A piece of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its place, from 0.
    pub(super) number: u32,
    /// Whether the content ends with it.
    pub(super) last: bool,
    pub(super) bytes: Bytes,
}

/// Gathers what comes until it is a part.
#[derive(Debug)]
pub(super) struct Cutter {
    part_bytes: usize,
    next: u32,
    gathered: BytesMut,
}

impl Cutter {
    /// Parts of this many bytes; the last is what is left, and may be empty only where everything is.
    pub(super) fn new(part_bytes: usize) -> Self {
        assert!(part_bytes > 0, "a part holds something");
        Self { part_bytes, next: 0, gathered: BytesMut::new() }
    }

    /// Takes in the beginning of `chunk`, as far as it goes until a part is complete; what is left of it comes again.
    pub(super) fn take(&mut self, chunk: &mut Bytes) -> Option<Piece> {
        if chunk.is_empty() {
            return None;
        }
        if self.gathered.len() == self.part_bytes {
            return Some(self.cut(false));
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(self.part_bytes);
        }
        let fits = chunk.len().min(self.part_bytes - self.gathered.len());
        self.gathered.extend_from_slice(&chunk.split_to(fits));
        if chunk.is_empty() { None } else { Some(self.cut(false)) }
    }

    /// The last part.
    pub(super) fn finish(mut self) -> Piece {
        self.cut(true)
    }

    fn cut(&mut self, last: bool) -> Piece {
        let number = self.next;
        self.next += 1;
        Piece { number, last, bytes: std::mem::take(&mut self.gathered).freeze() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(part_bytes: usize, chunks: &[Vec<u8>]) -> Vec<Piece> {
        let mut cutter = Cutter::new(part_bytes);
        let mut pieces = Vec::new();
        for chunk in chunks {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while !chunk.is_empty() {
                pieces.extend(cutter.take(&mut chunk));
            }
        }
        pieces.push(cutter.finish());
        pieces
    }

    #[test]
    fn nothing_is_one_empty_part() {
        assert_eq!(cut(4, &[]), [Piece { number: 0, last: true, bytes: Bytes::new() }]);
    }

    #[test]
    fn a_content_that_fills_its_parts_has_no_empty_one() {
        let pieces = cut(4, &[vec![1; 4], vec![2; 4]]);
        assert_eq!(
            pieces.iter().map(|piece| (piece.last, piece.bytes.len())).collect::<Vec<_>>(),
            [(false, 4), (true, 4)]
        );
    }

    proptest! {
        /// Against slicing the whole.
        #[test]
        fn parts_are_slices_of_the_content_however_it_comes(
            part_bytes in 1_usize..20,
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..10),
        ) {
            let whole = chunks.concat();
            let slices: Vec<&[u8]> = if whole.is_empty() { vec![&[]] } else { whole.chunks(part_bytes).collect() };
            let pieces = cut(part_bytes, &chunks);
            prop_assert_eq!(pieces.iter().map(|piece| &piece.bytes[..]).collect::<Vec<_>>(), slices);
            for (at, piece) in pieces.iter().enumerate() {
                prop_assert_eq!((piece.number as usize, piece.last), (at, at + 1 == pieces.len()));
            }
        }
    }
}
