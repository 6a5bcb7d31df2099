//! The same rules on SQLite and on PostgreSQL.

use super::*;
use crate::{Abort, Conn, Database, OnceRow, StoreError};

/// A migrated database of either back end.
struct Both {
    database: Database,
    _folder: tempfile::TempDir,
}

async fn open(url: String, folder: tempfile::TempDir) -> Both {
    assert_eq!(Database::migrate(&url, SCHEMA).await.unwrap().len(), 1);
    assert_eq!(Database::migrate(&url, SCHEMA).await.unwrap().len(), 0, "a second time changes nothing");
    Both { database: Database::open(&url, SCHEMA).await.unwrap(), _folder: folder }
}

/// Runs each `rule` as two tests.
macro_rules! on_both {
    ($($rule:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $rule() {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", folder.path().join("registry.db").display());
                super::$rule(super::open(url, folder).await.database.clone()).await;
            })*
        }
        mod postgresql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $rule() {
                let server = tokio::task::spawn_blocking(crate::testing::postgres).await.unwrap();
                let url = tokio::task::spawn_blocking(|| server.create_database()).await.unwrap();
                super::$rule(super::open(url, tempfile::tempdir().unwrap()).await.database.clone()).await;
            })*
        }
    };
}

on_both!(
    every_column_of_every_row_survives,
    changes_come_in_order_and_a_row_that_changed_twice_comes_once,
    a_change_that_is_dropped_takes_no_revision,
    two_changes_at_once_take_turns,
    a_request_id_is_taken_once_and_its_nonce_goes_first,
    pages_follow_kind_and_id,
    the_audit_is_chained_by_those_who_have_no_committer,
    the_secret_is_claimed_once,
);

fn identity(id: &str, revision: i64) -> IdentityRow {
    IdentityRow {
        kind: 1,
        id: id.into(),
        state: 1,
        city: "Łódź".into(),
        place: "Rynek 1".into(),
        price_e4: 3950,
        enrolled_at_ms: 1_763_690_000_123,
        incarnation: 2,
        revision,
        credential_hash: Some("$argon2id$…".into()),
    }
}

fn operator(name: &str, revision: i64) -> OperatorRow {
    let (name, changed_by) = (name.into(), "operator/anna".into());
    OperatorRow { name, role: 2, removed: false, changed_at_ms: 5, changed_by, revision }
}

fn request(request_id: &str, at_ms: i64) -> OnceRow {
    let (caller, method, nonce) = ("operator/anna".into(), "Remove".into(), Some("00ff".into()));
    OnceRow { caller, request_id: request_id.into(), method, digest: "d".into(), answer: "0a".into(), nonce, at_ms }
}

async fn change<T: Send + 'static>(
    database: &Database,
    work: impl FnMut(&mut Conn) -> Result<T, StoreError> + Send + 'static,
) -> T {
    let mut work = work;
    let done = database.transaction("test", move |conn| work(conn).map_err(Abort::<()>::Store));
    done.await.unwrap().unwrap()
}

async fn every_column_of_every_row_survives(database: Database) {
    let token = TokenRow {
        id: "t1".into(),
        kind: 1,
        id_pattern: "CP-*".into(),
        city: "Łódź".into(),
        bound_revision: Some(7),
        uses_left: 3,
        expires_at_ms: i64::MAX,
        created_at_ms: 1,
        created_by: "operator/anna".into(),
        revoked: false,
        secret_hash: "ab".into(),
    };
    let mark = ForwardingRow { sent: 9, acknowledged: 7 };
    let written = token.clone();
    change(&database, move |conn| {
        identity("CP-1", 1).save(conn)?;
        // Replaces the whole row.
        IdentityRow { state: 3, credential_hash: None, revision: 2, ..identity("CP-1", 1) }.save(conn)?;
        written.save(conn)?;
        TokenRow { uses_left: 2, revoked: true, secret_hash: String::new(), ..written.clone() }.save(conn)?;
        operator("anna", 3).save(conn)?;
        request("r1", 5).insert_first(conn)?;
        replace_pins(conn, &["aa".into(), "bb".into()])?;
        replace_pins(conn, &["cc".into(), "aa".into()])?;
        mark.save(conn)
    })
    .await;
    let read = database.read("test", |conn| {
        let expected = IdentityRow { state: 3, credential_hash: None, revision: 2, ..identity("CP-1", 1) };
        assert_eq!(IdentityRow::find(conn, 1, "CP-1")?, Some(expected));
        assert_eq!(IdentityRow::find(conn, 2, "CP-1")?, None);
        assert_eq!(IdentityRow::count(conn)?, [(1, 3, 1)]);
        assert_eq!(OperatorRow::all(conn)?, [operator("anna", 3)]);
        assert_eq!(OnceRow::find(conn, "operator/anna", "r1")?, Some(request("r1", 5)));
        assert_eq!(OnceRow::find(conn, "operator/bob", "r1")?, None);
        assert_eq!(pins(conn)?, ["cc", "aa"]);
        assert_eq!(ForwardingRow::get(conn)?, ForwardingRow { sent: 9, acknowledged: 7 });
        TokenRow::list(conn, 10)
    });
    // Of a token only the uses and the revocation change.
    assert_eq!(read.await.unwrap(), [TokenRow { uses_left: 2, revoked: true, ..token }]);
}

async fn changes_come_in_order_and_a_row_that_changed_twice_comes_once(database: Database) {
    for id in ["CP-1", "CP-2", "CP-1"] {
        change(&database, move |conn| {
            let Revision(revision) = Revision::take(conn)?;
            identity(id, revision).save(conn)
        })
        .await;
    }
    change(&database, |conn| operator("bob", Revision::take(conn)?.0).save(conn)).await;
    let since = async |revision, limit| {
        let changes = database.read("test", move |conn| changed_since(conn, revision, limit)).await.unwrap();
        changes.iter().map(Changed::revision).collect::<Vec<_>>()
    };
    assert_eq!(since(0, 10).await, [2, 3, 4]);
    assert_eq!(since(0, 2).await, [2, 3]);
    assert_eq!(since(3, 10).await, [4]);
    assert_eq!(database.read("test", head).await.unwrap(), 4);
}

async fn a_change_that_is_dropped_takes_no_revision(database: Database) {
    let dropped = database.transaction("test", |conn| {
        let Revision(revision) = Revision::take(conn)?;
        identity("CP-1", revision).save(conn)?;
        Err::<(), _>(Abort::Refused("no"))
    });
    assert_eq!(dropped.await.unwrap(), Err("no"));
    assert_eq!(database.read("test", head).await.unwrap(), 0);
    assert_eq!(database.read("test", |conn| changed_since(conn, 0, 10)).await.unwrap(), []);
}

async fn two_changes_at_once_take_turns(database: Database) {
    let token = TokenRow {
        id: "t".into(),
        kind: 0,
        id_pattern: String::new(),
        city: String::new(),
        bound_revision: None,
        uses_left: 5,
        expires_at_ms: 1,
        created_at_ms: 1,
        created_by: String::new(),
        revoked: false,
        secret_hash: String::new(),
    };
    change(&database, move |conn| token.save(conn)).await;
    // Each reads the uses left and writes one less, which is only safe under the lock.
    let uses = (0..20).map(|_| {
        let database = database.clone();
        tokio::spawn(async move {
            change(&database, |conn| {
                Revision::take(conn)?;
                let row = TokenRow::find(conn, "t")?.unwrap();
                let used = row.uses_left > 0;
                TokenRow { uses_left: row.uses_left - i64::from(used), ..row }.save(conn)?;
                Ok(used)
            })
            .await
        })
    });
    let mut used = 0;
    for one in uses.collect::<Vec<_>>() {
        used += i64::from(one.await.unwrap());
    }
    assert_eq!(used, 5);
}

async fn a_request_id_is_taken_once_and_its_nonce_goes_first(database: Database) {
    assert_eq!(change(&database, |conn| request("r1", 1000).insert_first(conn)).await, None);
    let first = change(&database, |conn| request("r1", 2000).insert_first(conn)).await;
    assert_eq!(first, Some(request("r1", 1000)), "the first one stays");
    assert_eq!(change(&database, |conn| request("r2", 2000).insert_first(conn)).await, None);
    assert_eq!(change(&database, |conn| OnceRow::erase_nonces(conn, 2000)).await, 1);
    assert_eq!(change(&database, |conn| OnceRow::erase_nonces(conn, 2000)).await, 0);
    let nonce = async |id: &'static str| {
        let found = database.read("test", move |conn| OnceRow::find(conn, "operator/anna", id)).await.unwrap();
        found.map(|row| row.nonce.is_some())
    };
    assert_eq!((nonce("r1").await, nonce("r2").await), (Some(false), Some(true)));
    assert_eq!(change(&database, |conn| OnceRow::prune(conn, 2000)).await, 1);
    assert_eq!((nonce("r1").await, nonce("r2").await), (None, Some(true)));
}

async fn pages_follow_kind_and_id(database: Database) {
    change(&database, |conn| {
        for (n, (kind, id)) in (1..).zip([(2, "A"), (1, "B"), (1, "A"), (2, "C")]) {
            IdentityRow { kind, ..identity(id, n) }.save(conn)?;
        }
        Ok(())
    })
    .await;
    let page = async |kind, after: (i32, &'static str), limit| {
        let rows = database.read("test", move |conn| IdentityRow::page(conn, kind, after, limit)).await.unwrap();
        rows.into_iter().map(|row| format!("{}{}", row.kind, row.id)).collect::<Vec<_>>()
    };
    assert_eq!(page(0, (0, ""), 3).await, ["1A", "1B", "2A"]);
    assert_eq!(page(0, (2, "A"), 3).await, ["2C"]);
    assert_eq!(page(2, (0, ""), 3).await, ["2A", "2C"]);
}

async fn the_audit_is_chained_by_those_who_have_no_committer(database: Database) {
    let entry = |action: &str| AuditEntry {
        at_ms: 1,
        action: action.into(),
        address: "192.0.2.1".into(),
        ..AuditEntry::default()
    };
    for action in ["A", "B"] {
        let entries = [entry(action), entry(action)];
        change(&database, move |conn| append_audit(conn, "registry", &entries)).await;
    }
    let rolled_back = database.transaction("test", move |conn| {
        append_audit(conn, "registry", &[entry("C")])?;
        Err::<(), _>(Abort::Refused(()))
    });
    assert_eq!(rolled_back.await.unwrap(), Err(()));
    let last = database.read("test", |conn| Ok((last_number(conn, "registry")?, last_number(conn, "nobody")?))).await;
    assert_eq!(last.unwrap(), (4, 0));
    let rows = database.read("test", |conn| AuditRow::after(conn, "registry", 1, 10)).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.number, row.action.as_str())).collect::<Vec<_>>(),
        [(2, "A"), (3, "B"), (4, "B")]
    );
    let checkpoints = tempfile::NamedTempFile::new().unwrap();
    let found = crate::audit::verify(&database, checkpoints.path(), &[]).await.unwrap();
    assert_eq!((found.entries, found.uncovered, found.first_bad), (4, 4, None));
}

async fn the_secret_is_claimed_once(database: Database) {
    assert_eq!(change(&database, |conn| claim_secret(conn, "first")).await, "first");
    assert_eq!(change(&database, |conn| claim_secret(conn, "second")).await, "first");
}
