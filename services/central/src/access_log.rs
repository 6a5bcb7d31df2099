//! Who logged in or was turned away, as entries of the audit (SPEC 8.1, 8.2).

use std::sync::Arc;

use mesh::access_log::{AccessEntry, AccessLog, RefusedAccess};
use store::central::RowWrite;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{AuditAction, AuditRecord},
    origin::Origin,
    rows,
    shared::SharedState,
};

/// Until the process stops.
pub(crate) async fn write(access_log: AccessLog, shared: Arc<SharedState>, stop: CancellationToken) {
    let shared = &shared;
    let write = async |entries: Vec<AccessEntry>| {
        let now = shared.clock.now();
        let entry = |access| {
            let (entry, origin) = entry(access);
            RowWrite::Audit(rows::audit(&entry.by(&origin, now)))
        };
        shared.store.write("access_log", entries.into_iter().map(entry).collect()).await.map(drop)
    };
    access_log.write_to(stop, write).await;
}

fn entry(access: AccessEntry) -> (AuditRecord, Origin) {
    match access {
        AccessEntry::Login { who, from, count } => {
            let entry = AuditRecord::new(AuditAction::Login, &who).with("count", count);
            (entry, Origin::new(who, from.to_string()))
        }
        AccessEntry::Refused(RefusedAccess { what, reason, who: Some(who), from, count }) => {
            let mut entry = AuditRecord::new(AuditAction::CallRefused, what).with("count", count);
            reason.clone_into(&mut entry.outcome);
            (entry, Origin::new(who, from))
        }
        AccessEntry::Refused(RefusedAccess { what, reason, who: None, from, count }) => {
            let from = if from.is_empty() { "unknown".to_owned() } else { from };
            let mut entry =
                AuditRecord::new(AuditAction::UnauthenticatedRefused, what).with("count", count).with("from", from);
            reason.clone_into(&mut entry.outcome);
            (entry, Origin::central())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(who: Option<&str>, from: &str) -> AccessEntry {
        let (who, from) = (who.map(str::to_owned), from.to_owned());
        AccessEntry::Refused(RefusedAccess { what: "grpc", reason: "NOT_ALLOWED", who, from, count: 7 })
    }

    #[test]
    fn who_is_known_is_named_and_who_is_not_is_counted_by_network_spec_8_2() {
        let (entry_of, origin) = entry(refused(Some("viewer/vera"), "192.0.2.7"));
        assert_eq!((entry_of.action, entry_of.outcome.as_str()), (AuditAction::CallRefused, "NOT_ALLOWED"));
        assert_eq!((&*origin.actor, &*origin.address), ("viewer/vera", "192.0.2.7"));
        assert_eq!(entry_of.parameters, [("count", "7".to_owned())]);

        let (entry_of, origin) = entry(refused(None, "192.0.2.0/24"));
        assert_eq!((entry_of.action, &*origin.actor), (AuditAction::UnauthenticatedRefused, "central"));
        assert_eq!(entry_of.parameters, [("count", "7".to_owned()), ("from", "192.0.2.0/24".to_owned())]);
    }

    #[test]
    fn an_operators_login_names_him_and_his_address_spec_8_1() {
        let login = AccessEntry::Login { who: "operator/anna".into(), from: [192, 0, 2, 7].into(), count: 1 };
        let (entry, origin) = entry(login);
        assert_eq!((entry.action, entry.object.as_str()), (AuditAction::Login, "operator/anna"));
        assert_eq!((&*origin.actor, &*origin.address), ("operator/anna", "192.0.2.7"));
    }
}
