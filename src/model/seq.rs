//! Sequence numbers and offsets.

use std::fmt;
use std::num::NonZeroU32;

/// The sequence number of an entry in its feed: 1 to 2^32−1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seq(NonZeroU32);

impl Seq {
    /// `None` for 0 and for numbers above 2^32−1.
    pub fn new(seq: u64) -> Option<Self> {
        u32::try_from(seq).ok().and_then(NonZeroU32::new).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of an entry in one log's order of arrival: 1, 2, 3 …; 0 is the position before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);

    /// The offset that follows.
    ///
    /// ```
    /// # use scuttleup::Offset;
    /// assert_eq!(Offset(7).next(), Offset(8));
    /// assert_eq!(Offset(u64::MAX).next(), Offset(u64::MAX));
    /// ```
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
