//! Pruning the audit: what goes, what stays, and that a verification finds it intact before, after and in between.

use super::*;
use crate::audit::AuditKey;

impl TestStore {
    /// Every change of the audit's rows fails from now on.
    async fn forbid_changes(&self) {
        if self.url.starts_with("sqlite") {
            for change in ["UPDATE", "DELETE"] {
                let body = "BEGIN SELECT RAISE(ABORT, 'killed here'); END";
                self.sql(format!("CREATE TRIGGER no_{change} BEFORE {change} ON audit {body}")).await;
            }
        } else {
            self.sql(
                "CREATE FUNCTION killed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'killed here'; END $$",
            )
            .await;
            let on = "BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION killed()";
            self.sql(format!("CREATE TRIGGER no_change {on}")).await;
        }
    }

    async fn allow_changes(&self) {
        if self.url.starts_with("sqlite") {
            self.sql("DROP TRIGGER no_UPDATE").await;
            self.sql("DROP TRIGGER no_DELETE").await;
        } else {
            self.sql("DROP TRIGGER no_change ON audit").await;
        }
    }
}

on_both! {
    async fn addresses_go_first_and_segments_that_end_at_a_checkpoint_later_spec_10_9(store: TestStore) {
        let key = AuditKey::generate();
        let mut file = store.checkpoints(&key);
        for at_ms in [10, 20, 15] {
            store.write_entries(1).await;
            file.write(&store.database, at_ms).await.unwrap();
        }
        store.write_entries(1).await;
        let first = file.write(&store.database, 30).await.unwrap().unwrap();
        store.write_entries(1).await;
        assert_eq!(file.prune_addresses(&store.database, 20, 40).await.unwrap(), 1, "the second is still young, and what follows waits for it");
        assert_eq!(file.prune_addresses(&store.database, 35, 40).await.unwrap(), 3);
        assert_eq!(store.first_bad(&key).await, None);
        assert_eq!(file.prune_through(&store.database, &first, 50).await.unwrap(), 4);
        let found = store.verified(&key).await;
        assert_eq!((found.entries, found.first_bad), (1, None));
        store.sql("UPDATE writers SET pruned_number = 3").await;
        assert!(store.first_bad(&key).await.is_some(), "cut where no checkpoint stands");
    }

    async fn what_was_pruned_stays_intact_when_the_process_starts_again_spec_10_9(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(3).await;
        let first = store.checkpoint(&key).await.unwrap();
        let mut file = store.checkpoints(&key);
        assert_eq!(file.prune_addresses(&store.database, 2, 2).await.unwrap(), 3);
        assert_eq!(file.prune_through(&store.database, &first, 3).await.unwrap(), 3);
        drop(file);
        store.write_entries(2).await;
        let head = store.checkpoint(&key).await.unwrap().heads[0].clone();
        assert_eq!((head.pruned, head.addresses_pruned), (3, 3), "signed again with every checkpoint");
        let found = store.verified(&key).await;
        assert_eq!((found.entries, found.first_bad), (2, None));
    }

    async fn an_entry_that_says_it_is_old_keeps_its_address_spec_10_9(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(2).await;
        let mut file = store.checkpoints(&key);
        file.write(&store.database, 100).await.unwrap();
        store.sql("UPDATE audit SET at_ms = 0").await;
        assert_eq!(file.prune_addresses(&store.database, 50, 200).await.unwrap(), 0);
    }

    async fn a_prune_that_was_killed_between_its_checkpoint_and_its_deletes_leaves_an_intact_audit_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(3).await;
        let first = store.checkpoint(&key).await.unwrap();
        let mut file = store.checkpoints(&key);
        store.forbid_changes().await;
        file.prune_addresses(&store.database, 2, 2).await.unwrap_err();
        file.prune_through(&store.database, &first, 2).await.unwrap_err();
        drop(file);
        store.allow_changes().await;
        let found = store.verified(&key).await;
        assert_eq!((found.entries, found.first_bad), (3, None), "what is still there is verified");
        store.sql("UPDATE audit SET actor = 'nobody' WHERE number = 2").await;
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 2)), "and found where it was changed");
        store.sql("UPDATE audit SET actor = (SELECT actor FROM audit WHERE number = 1)").await;
        let mut file = store.checkpoints(&key);
        assert_eq!(file.prune_addresses(&store.database, 2, 3).await.unwrap(), 3);
        assert_eq!(file.prune_through(&store.database, &first, 3).await.unwrap(), 3, "the next takes it out");
        assert_eq!(store.first_bad(&key).await, None);
    }
}
