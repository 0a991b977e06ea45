//! Cuts a stream of buffers into frames.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};

use super::FRAME_SIZE;

/// Gathers appended bytes until a frame is full.
///
/// They are copied, once, while they are still in the cache of the processor that has received them; so the
/// receiver can use its buffer again at once, and whoever compresses finds the frame in one piece.
pub(crate) struct Cutter {
    frame: Vec<u8>,
    idle: IdleFrames,
}

/// The memory of frames that have been done with, to be used again: fresh memory costs as much as the copy. There
/// are never more than have been on their way at one time.
#[derive(Clone, Default)]
pub(crate) struct IdleFrames(Arc<Mutex<Vec<Vec<u8>>>>);

impl IdleFrames {
    /// Takes back the memory of a frame.
    pub(crate) fn give(&self, mut frame: Vec<u8>) {
        frame.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
    }

    fn take(&self) -> Vec<u8> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Vec::with_capacity(FRAME_SIZE))
    }
}

impl Cutter {
    /// `idle`: where those who are done with a frame give it.
    pub(crate) fn new(idle: IdleFrames) -> Self {
        Self { frame: idle.take(), idle }
    }

    /// Room in the frame that is being gathered; never 0.
    pub(crate) fn room(&self) -> usize {
        FRAME_SIZE - self.frame.len()
    }

    /// Takes up to [`Cutter::room`] bytes from the front of `bytes`; a frame comes out when it is full.
    pub(crate) fn take(&mut self, bytes: &mut Bytes) -> Option<Vec<u8>> {
        let length = bytes.len().min(self.room());
        self.frame.extend_from_slice(&bytes[..length]);
        bytes.advance(length);
        (self.frame.len() == FRAME_SIZE).then(|| self.cut())
    }

    /// What is left, as the last and shorter frame of a pack; `None` if nothing is.
    pub(crate) fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.frame.is_empty()).then(|| self.cut())
    }

    fn cut(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.frame, self.idle.take())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut_all(buffers: Vec<Bytes>) -> Vec<Vec<u8>> {
        let idle = IdleFrames::default();
        let (mut cutter, mut frames) = (Cutter::new(idle.clone()), Vec::new());
        let mut keep = |frame: Vec<u8>| {
            frames.push(frame.clone());
            idle.give(frame);
        };
        for mut buffer in buffers {
            while !buffer.is_empty() {
                cutter.take(&mut buffer).into_iter().for_each(&mut keep);
            }
        }
        cutter.rest().into_iter().for_each(&mut keep);
        frames
    }

    #[test]
    fn memory_that_was_given_back_is_used_again() {
        let idle = IdleFrames::default();
        let mut cutter = Cutter::new(idle.clone());
        let first = cutter.take(&mut Bytes::from(vec![7; FRAME_SIZE])).unwrap();
        let memory = first.as_ptr();
        idle.give(first);
        cutter.take(&mut Bytes::from(vec![8; FRAME_SIZE])).unwrap();
        let third = cutter.take(&mut Bytes::from(vec![9; FRAME_SIZE])).unwrap();
        assert_eq!((third.as_ptr(), third[0], third.len()), (memory, 9, FRAME_SIZE));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_frames_are_the_stream(
            sizes in proptest::collection::vec(prop_oneof![0usize..10, 0..FRAME_SIZE * 2], 0..8),
        ) {
            let total: usize = sizes.iter().sum();
            let stream: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
            let mut rest = Bytes::from(stream.clone());
            let frames = cut_all(sizes.into_iter().map(|size| rest.split_to(size)).collect());
            prop_assert!(frames.iter().rev().skip(1).all(|frame| frame.len() == FRAME_SIZE));
            prop_assert!(frames.last().is_none_or(|last| (1..=FRAME_SIZE).contains(&last.len())));
            prop_assert_eq!(frames.concat(), stream);
        }
    }
}
