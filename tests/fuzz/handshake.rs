//! A handshake is the same, however it was chunked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::proto::{FrameReader, HandshakeReader, Mode};

type Heads = Vec<String>;

/// What was read: nothing yet, an error, or id, mode and heads.
fn read(stream: &[u8], chunk: usize) -> Option<Result<(String, Mode, Heads), ()>> {
    let (mut frames, mut reader) = (FrameReader::new(1), HandshakeReader::default());
    for part in stream.chunks(chunk) {
        frames.push(part);
        match reader.read(&mut frames) {
            Ok(None) => {}
            Err(_) => return Some(Err(())),
            Ok(Some(handshake)) => {
                let mut heads: Heads = handshake.heads.iter().map(|head| format!("{head:?}")).collect();
                heads.sort();
                return Some(Ok((handshake.id.as_str().to_owned(), handshake.mode, heads)));
            }
        }
    }
    None
}

fuzz_target!(|stream: &[u8]| {
    let whole = read(stream, stream.len().max(1));
    for chunk in [1, 2, 5] {
        assert_eq!(read(stream, chunk), whole);
    }
});
