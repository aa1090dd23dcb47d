//! Who a log is.

use std::fs::File;
use std::io::Read;

use data_encoding::HEXLOWER;

use crate::entry::PeerId;
use crate::error::{Error, Result};

/// A new id: 128 random bits in hex.
pub fn random_id() -> Result<PeerId> {
    let mut bits = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bits));
    read.map_err(|err| Error::io("no random numbers can be had from /dev/urandom", err))?;
    PeerId::new(&HEXLOWER.encode(&bits))
}
