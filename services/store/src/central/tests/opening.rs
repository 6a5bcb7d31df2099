use std::collections::BTreeMap;

use diesel::{prelude::*, sql_types::Text};

use super::*;
use crate::{OpenDatabaseError, connection::on};

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    kind: String,
}

/// `table.column` to the diesel type, as written in a schema file.
fn declared(text: &str) -> BTreeMap<String, String> {
    let (mut table, mut name, mut found) = ("", None, BTreeMap::new());
    for line in text.lines().map(str::trim) {
        if let Some((before, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
            table = before;
        } else if let Some(rest) = line.strip_prefix("#[sql_name = \"") {
            name = rest.strip_suffix("\"]");
        } else if let Some((column, kind)) = line.strip_suffix(',').and_then(|line| line.split_once(" -> ")) {
            found.insert(format!("{table}.{}", name.take().unwrap_or(column)), kind.to_owned());
        }
    }
    found
}

fn migrated(conn: &mut crate::Conn) -> Result<BTreeMap<String, String>, crate::StoreError> {
    let sqlite = "SELECT m.name AS table_name, c.name AS column_name, c.type || CASE c.\"notnull\" WHEN 1 THEN '' ELSE '?' END AS kind
        FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'";
    let postgres = "SELECT table_name::text, column_name::text, upper(data_type) || CASE is_nullable WHEN 'NO' THEN '' ELSE '?' END AS kind
        FROM information_schema.columns WHERE table_schema = current_schema()";
    let sql = if matches!(conn.0, crate::connection::Backend::Sqlite(_)) { sqlite } else { postgres };
    let columns: Vec<Column> = on!(conn, |c| diesel::sql_query(sql).load(c))?;
    let ours = columns
        .into_iter()
        .filter(|column| !column.table_name.starts_with("__") && column.table_name != "schema_version");
    Ok(ours
        .map(|Column { table_name, column_name, kind }| {
            let diesel = match kind.trim_end_matches('?') {
                "TEXT" => "Text",
                "BIGINT" => "BigInt",
                "INTEGER" => "Integer",
                "BOOLEAN" => "Bool",
                other => other,
            };
            let diesel = if kind.ends_with('?') { format!("Nullable<{diesel}>") } else { diesel.to_owned() };
            (format!("{table_name}.{column_name}"), diesel)
        })
        .collect())
}

on_both! {
    async fn the_schema_equals_the_migrated_database(store: TestStore) {
        let mut expected = declared(include_str!("../schema.rs"));
        expected.extend(declared(include_str!("../../audit/schema.rs")));
        expected.extend(declared(include_str!("../../once.rs")));
        assert_eq!(expected, store.read(migrated).await);
    }

    async fn migrating_again_changes_nothing(store: TestStore) {
        assert_eq!(Database::migrate(&store.url, SCHEMA).await.unwrap(), Vec::<String>::new());
    }

    async fn a_database_that_says_it_is_too_new_is_refused_spec_10_6(store: TestStore) {
        store.sql("UPDATE schema_version SET version = 7").await;
        Database::open(&store.url, SCHEMA).await.expect("newer, but it serves this program");
        store.sql("UPDATE schema_version SET serves_from = 7").await;
        for error in [Database::open(&store.url, SCHEMA).await.unwrap_err(), Database::migrate(&store.url, SCHEMA).await.unwrap_err()] {
            assert!(matches!(&error, OpenDatabaseError::TooNew { serves_from: 7, .. }), "{error}");
            assert!(error.to_string().contains("too new"), "{error}");
        }
    }

    async fn an_older_database_says_to_run_migrate(store: TestStore) {
        store.sql("UPDATE schema_version SET version = 0").await;
        let error = Database::open(&store.url, SCHEMA).await.unwrap_err();
        assert!(matches!(&error, OpenDatabaseError::TooOld { found: 0, .. }) && error.to_string().contains("chargemesh migrate"), "{error}");
    }

    async fn another_services_database_is_refused(store: TestStore) {
        store.sql("UPDATE schema_version SET name = 'registry'").await;
        for error in [Database::open(&store.url, SCHEMA).await.unwrap_err(), Database::migrate(&store.url, SCHEMA).await.unwrap_err()] {
            assert!(matches!(error, OpenDatabaseError::Foreign { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn a_missing_or_unwritable_file_is_said_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let missing = format!("sqlite:{}", folder.path().join("none.db").display());
    assert!(matches!(Database::open(&missing, SCHEMA).await.unwrap_err(), OpenDatabaseError::TooOld { .. }));
    let file = folder.path().join("file");
    std::fs::write(&file, "not a database, but long enough to be looked at as one, page header and all").unwrap();
    let not_one = format!("sqlite:{}", file.display());
    let error = Database::open(&not_one, SCHEMA).await.unwrap_err();
    assert!(error.to_string().contains("file is not a database"), "{error}");
    let below_a_file = format!("sqlite:{}", file.join("x.db").display());
    let error = Database::migrate(&below_a_file, SCHEMA).await.unwrap_err();
    assert!(error.to_string().contains("cannot make the folder"), "{error}");
    let nobody = Database::open("postgres://u:secret@127.0.0.1:1/x", SCHEMA).await.unwrap_err();
    assert!(nobody.is_transient() && !nobody.to_string().contains("secret"), "{nobody}");
}

/// An authority and a certificate of its for this machine: PEM of the root, of the certificate, of its key.
fn certificates() -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (root_pem, server.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_reached_by_tls_alone_and_must_prove_itself() {
    let (root, certificate, key) = certificates();
    let (server, url) = tokio::task::spawn_blocking(move || {
        let server = crate::testing::Postgres::start_with_tls(&certificate, &key).unwrap();
        let url = server.create_database();
        (server, url)
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let with_root = |name: &str, pem: String| {
        let file = folder.path().join(name);
        std::fs::write(&file, pem).unwrap();
        format!("{url}&sslrootcert={}", file.display())
    };
    let url_right = with_root("right.pem", root);
    Database::migrate(&url_right, SCHEMA).await.unwrap();
    Database::open(&url_right, SCHEMA).await.unwrap();
    let error = Database::open(&with_root("wrong.pem", certificates().0), SCHEMA).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let other_name = url_right.replace("127.0.0.1", "localhost");
    let error = Database::open(&other_name, SCHEMA).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "another name than the certificate's: {error}");
    let clear = url.replace("sslmode=require", "sslmode=disable");
    let error = Database::open(&clear, SCHEMA).await.unwrap_err();
    assert!(error.to_string().contains("pg_hba"), "the server takes no plaintext: {error}");
    let empty = Database::open(&with_root("empty.pem", String::new()), SCHEMA).await.unwrap_err();
    assert!(empty.to_string().contains("holds no certificate"), "{empty}");
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test]
async fn the_files_of_a_database_are_for_their_user_alone_also_those_that_were_open_to_others_spec_10_8() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    let url = format!("sqlite:{}", folder.join("central.db").display());
    Database::migrate(&url, SCHEMA).await.unwrap();
    let modes = || {
        let mut modes: Vec<(String, u32)> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().permissions().mode() & 0o777)
            })
            .collect();
        modes.sort();
        modes
    };
    let private = |name: &str| (name.to_owned(), 0o600);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let database = Database::open(&url, SCHEMA).await.unwrap();
    database.read("test", ChargingPointRow::all).await.unwrap();
    assert_eq!(modes(), [private("central.db"), private("central.db-shm"), private("central.db-wal")]);
    for (name, _) in modes() {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let _again = Database::open(&url, SCHEMA).await.unwrap();
    assert_eq!(modes(), [private("central.db"), private("central.db-shm"), private("central.db-wal")]);
}
