//! The frames of a stream do not depend on its chunks, and the length of a frame does not make memory grow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::wire::FrameReader;

const FRAME_BYTES_MAX: usize = 1 << 16;

/// Returns the frames of a stream, and whether it ended in an error.
fn frames(stream: &[u8], chunk: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut reader, mut frames) = (FrameReader::new(FRAME_BYTES_MAX), Vec::new());
    for part in stream.chunks(chunk) {
        reader.push(part);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    assert!(reader.pending().len() <= stream.len());
    (frames, false)
}

fuzz_target!(|stream: &[u8]| {
    let whole = frames(stream, stream.len().max(1));
    assert!(whole.0.iter().all(|frame| !frame.is_empty() && frame.len() <= FRAME_BYTES_MAX));
    for chunk in [1, 3, 7] {
        assert_eq!(frames(stream, chunk), whole);
    }
});
