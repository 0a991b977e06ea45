//! Cuts a stream of buffers into frames, copying as little as can be.

use bytes::{Bytes, BytesMut};

use super::FRAME_SIZE;

/// Gathers appended bytes until a frame is full.
///
/// Buffers are kept as they came. A frame that lies within one buffer is handed on without a copy; one that
/// was gathered from several is copied once, by whoever asks for it as one slice (a compressing thread, not
/// the one that reads the socket).
#[derive(Default)]
pub(crate) struct Cutter {
    parts: Vec<Bytes>,
    gathered: usize,
}

/// The raw bytes of one frame, in one or several buffers.
pub(crate) struct RawFrame {
    parts: Vec<Bytes>,
    length: usize,
}

impl Cutter {
    /// Room in the frame that is being gathered; never 0.
    pub(crate) fn room(&self) -> usize {
        FRAME_SIZE - self.gathered
    }

    /// Takes up to [`Cutter::room`] bytes from the front of `bytes`; a frame comes out when it is full.
    pub(crate) fn take(&mut self, bytes: &mut Bytes) -> Option<RawFrame> {
        let part = bytes.split_to(bytes.len().min(self.room()));
        if !part.is_empty() {
            self.gathered += part.len();
            self.parts.push(part);
        }
        (self.gathered == FRAME_SIZE).then(|| self.cut())
    }

    /// What is left, as the last and shorter frame of a pack; `None` if nothing is.
    pub(crate) fn rest(&mut self) -> Option<RawFrame> {
        (self.gathered > 0).then(|| self.cut())
    }

    fn cut(&mut self) -> RawFrame {
        let length = std::mem::take(&mut self.gathered);
        // The next frame will have about as many parts as this one.
        let next = Vec::with_capacity(self.parts.len());
        RawFrame { parts: std::mem::replace(&mut self.parts, next), length }
    }
}

impl RawFrame {
    /// The frame as one slice: the buffer itself where there is one, else gathered into `scratch`.
    pub(crate) fn as_slice<'a>(&'a self, scratch: &'a mut BytesMut) -> &'a [u8] {
        match self.parts.as_slice() {
            [single] => single,
            parts => {
                scratch.clear();
                scratch.reserve(self.length);
                parts.iter().for_each(|part| scratch.extend_from_slice(part));
                scratch
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut_all(buffers: Vec<Bytes>) -> Vec<Vec<u8>> {
        let (mut cutter, mut frames, mut scratch) = (Cutter::default(), Vec::new(), BytesMut::new());
        for mut buffer in buffers {
            while !buffer.is_empty() {
                frames.extend(cutter.take(&mut buffer).map(|frame| frame.as_slice(&mut scratch).to_vec()));
            }
        }
        frames.extend(cutter.rest().map(|frame| frame.as_slice(&mut scratch).to_vec()));
        frames
    }

    #[test]
    fn a_frame_within_one_buffer_is_not_copied() {
        let mut buffer = Bytes::from(vec![7; FRAME_SIZE + 10]);
        let start = buffer.as_ptr();
        let frame = Cutter::default().take(&mut buffer).unwrap();
        assert_eq!(frame.as_slice(&mut BytesMut::new()).as_ptr(), start);
        assert_eq!(buffer.len(), 10);
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
