//! Pins: Central's static public keys, by which an enrolling peer recognises Central. Central reports them when it
//! opens its stream of identities; the last report counts and survives restarts.

use proto::link::v1::Reason;
use store::{
    Conn, StoreError,
    registry::{pins, replace_pins},
};

use super::{IdentityService, to_the_end, unavailable};
use crate::{
    audit::{Actor, RegistryAction, RegistryEntry},
    error::{Error, refuse},
};

/// An X25519 public key.
pub(crate) type LinkPin = [u8; 32];

/// The current key and its successor (SPEC 4.4).
const MOST: usize = 2;

impl IdentityService {
    pub(crate) fn pins(&self) -> Vec<LinkPin> {
        self.0.pins.borrow().clone()
    }

    /// Stores the keys that Central reports; an empty report changes nothing.
    pub(crate) async fn report_pins(&self, actor: Actor, keys: Vec<Vec<u8>>) -> Result<(), Error> {
        let fresh: Option<Vec<LinkPin>> = keys.iter().map(|key| key.as_slice().try_into().ok()).collect();
        let Some(fresh) = fresh.filter(|pins| pins.len() <= MOST) else {
            return Err(refuse(Reason::Invalid, format!("link keys are at most {MOST} of 32 bytes each")));
        };
        if fresh.is_empty() || fresh == self.pins() {
            return Ok(());
        }
        let texts: Vec<String> = fresh.iter().map(hex::encode).collect();
        let entry = RegistryEntry::done(self.now().wall_ms, &actor, RegistryAction::PinsChanged, "central")
            .with("pins", texts.join(","));
        let work = move |conn: &mut Conn| {
            replace_pins(conn, &texts)?;
            crate::chain::append(conn, std::slice::from_ref(&entry))?;
            Ok::<_, store::Abort<Error>>(())
        };
        let service = self.clone();
        let reporting = async move {
            service.database().transaction("pins", work).await.map_err(unavailable)??;
            service.0.pins.send_replace(fresh);
            service.0.appended.notify_one();
            Ok(())
        };
        to_the_end(reporting).await
    }

    pub(super) async fn load_pins(&self) -> Result<(), StoreError> {
        let texts = self.database().read("pins", pins).await?;
        let read = |text: &String| hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        let known: Option<Vec<LinkPin>> = texts.iter().map(read).collect();
        let known = known.ok_or_else(|| StoreError::Rejected("the stored pins of Central are not readable".into()))?;
        self.0.pins.send_replace(known);
        Ok(())
    }
}
