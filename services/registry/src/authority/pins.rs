//! Central's static public keys, by which those who enrol know Central. Central reports them when it follows the
//! identities; the last report counts, and is kept over restarts.

use proto::link::v1::Reason;
use store::{
    Conn, StoreError,
    registry::{pins, replace_pins},
};

use super::{Authority, to_the_end, unavailable};
use crate::{
    audit::{Action, Actor, Entry},
    refusal::{Refusal, refuse},
};

/// An X25519 public key.
pub(crate) type Pin = [u8; 32];

/// One in use and its successor (SPEC 4.4).
const MOST: usize = 2;

impl Authority {
    pub(crate) fn pins(&self) -> Vec<Pin> {
        self.0.pins.borrow().clone()
    }

    /// What Central says of its keys; saying nothing changes nothing.
    pub(crate) async fn report_pins(&self, actor: Actor, keys: Vec<Vec<u8>>) -> Result<(), Refusal> {
        let fresh: Option<Vec<Pin>> = keys.iter().map(|key| key.as_slice().try_into().ok()).collect();
        let Some(fresh) = fresh.filter(|pins| pins.len() <= MOST) else {
            return Err(refuse(Reason::Invalid, format!("link keys are at most {MOST} of 32 bytes each")));
        };
        if fresh.is_empty() || fresh == self.pins() {
            return Ok(());
        }
        let texts: Vec<String> = fresh.iter().map(hex::encode).collect();
        let entry =
            Entry::done(self.now().wall_ms, &actor, Action::PinsChanged, "central").with("pins", texts.join(","));
        let work = move |conn: &mut Conn| {
            replace_pins(conn, &texts)?;
            crate::chain::append(conn, std::slice::from_ref(&entry))?;
            Ok::<_, store::Abort<Refusal>>(())
        };
        let authority = self.clone();
        let reporting = async move {
            authority.database().transaction("pins", work).await.map_err(unavailable)??;
            authority.0.pins.send_replace(fresh);
            authority.0.appended.notify_one();
            Ok(())
        };
        to_the_end(reporting).await
    }

    pub(super) async fn load_pins(&self) -> Result<(), StoreError> {
        let texts = self.database().read("pins", pins).await?;
        let read = |text: &String| hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        let known: Option<Vec<Pin>> = texts.iter().map(read).collect();
        let known = known.ok_or_else(|| StoreError::Rejected("cannot understand the pins of Central".into()))?;
        self.0.pins.send_replace(known);
        Ok(())
    }
}
