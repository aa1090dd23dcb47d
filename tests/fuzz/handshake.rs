//! The result of reading a handshake does not depend on the chunks of the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scuttleup::Mode;
use scuttleup::wire::FrameReader;
use scuttleup::wire::original::HandshakeReader;

type Heads = Vec<String>;

/// Returns `None` if the handshake is incomplete; else an error, or id, mode and heads.
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
