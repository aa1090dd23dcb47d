//! The frames of the native wire, as they come.

use super::inward::Inward;
use super::keep::Keeper;
use super::shared::Shared;
use super::{Notice, Step};
use crate::entry::Chain;
use crate::error::Result;
use crate::heads::FeedKey;
use crate::proto::{Difference, Head, Received};

impl Inward<'_, '_, '_> {
    pub fn take_native(&mut self) -> Result<()> {
        let mut found = Vec::new();
        let taken = self.take_frames(&mut found);
        // Whatever came after them, they were found.
        found.iter().for_each(|difference| self.keeper.stop(difference));
        let told = self.shared.tell_differences(found);
        taken.and(told)
    }

    fn take_frames(&mut self, found: &mut Vec<Difference>) -> Result<()> {
        let Self { shared, incoming, keeper, batch, awaited, outcome, .. } = self;
        let mut chain_of = shared.chain_of();
        let mut wakes = false;
        while let Some(frame) = incoming.frame()? {
            let received = shared.link().receive(frame, &mut chain_of)?;
            match received {
                // The outward thread sees an entry only after the commit, and so after the link has: nothing is echoed.
                Received::Run(peer, run) => {
                    batch.add_run(&peer, &run);
                    continue;
                }
                Received::Nothing => {}
                Received::Hello => {
                    let link = shared.link();
                    outcome.peer = link.theirs().map(|theirs| theirs.id.clone());
                    if !link.has_heads() {
                        keeper.expect(Vec::new());
                    }
                }
                Received::Heads(rows, last) => {
                    found.extend(compare(shared, keeper, &rows, last, awaited)?);
                    if last {
                        keeper.expect(std::mem::take(awaited));
                    }
                }
                Received::Differs(difference) => found.push(difference),
                Received::Error(text) => outcome.their_error = Some(text),
            }
            wakes = true;
        }
        if wakes {
            shared.wake();
        }
        Ok(())
    }
}

/// Compares heads with the log; what the other side holds and we do not is awaited.
fn compare(
    shared: &Shared<'_>,
    keeper: &Keeper<'_>,
    rows: &[Head<'_>],
    last: bool,
    awaited: &mut Vec<(FeedKey, u32)>,
) -> Result<Vec<Difference>> {
    let theirs: Vec<(&str, u32, Chain)> = rows.iter().map(|row| (row.peer, row.seq, row.chain)).collect();
    let ours = shared.log.reader().compare(&theirs)?;
    let differs: Vec<bool> = ours.iter().map(|ours| ours.differs).collect();
    let receives = shared.link().receives();
    let ahead = rows.iter().zip(&ours).filter(|_| receives).map(|(row, ours)| u64::from(row.seq.saturating_sub(ours.head)));
    // Before the outward thread may begin, so that the sum does not look complete too early.
    shared.step(Step::Ahead(ahead.sum()));
    let found = shared.link().compared(rows, &differs, last, &mut shared.chain_of())?;
    let own = shared.log.own_id_now()?;
    if !receives
        && let Some((row, ours)) = rows.iter().zip(&ours).find(|(row, ours)| row.peer == own.as_str() && row.seq > ours.head)
    {
        (shared.notify)(Notice::StaysBehind(own.clone(), ours.head, row.seq));
    }
    for (row, _) in rows.iter().zip(&ours).filter(|(row, ours)| receives && row.seq > ours.head) {
        awaited.push((FeedKey::of(row.peer), row.seq));
        if row.peer == own.as_str() {
            keeper.behind(own.clone(), row.seq);
        }
    }
    Ok(found)
}
