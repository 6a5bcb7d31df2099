use super::*;
use crate::OpenDatabaseError;

on_both! {
    async fn a_second_central_on_one_database_is_refused_in_words_until_the_first_has_gone_spec_10_8(store: TestStore) {
        store.database.take_lease("central-1").await.unwrap();
        store.database.take_lease("central-1").await.expect("killed and started again, it need not wait");
        let refused = store.database.take_lease("central-2").await.unwrap_err();
        assert!(matches!(&refused, OpenDatabaseError::Leased { holder, .. } if holder == "central-1"), "{refused}");
        assert!(refused.is_transient() && refused.to_string().contains("another Central (central-1)"), "{refused}");

        store.database.give_lease_back("central-1").await.unwrap();
        store.database.take_lease("central-2").await.unwrap();
        store.database.give_lease_back("central-1").await.expect("what is not its own is left alone");
        assert_eq!(store.database.renew_lease("central-1").await.unwrap(), Err("central-2".to_owned()));
    }

    async fn a_lease_that_is_not_renewed_ends_by_the_clock_of_the_database_spec_10_8(store: TestStore) {
        store.database.take_lease("central-1").await.unwrap();
        store.sql("UPDATE lease SET until_ms = until_ms - 10001").await;
        store.database.take_lease("central-2").await.unwrap();
        assert_eq!(store.database.renew_lease("central-1").await.unwrap(), Err("central-2".to_owned()));
        store.database.renew_lease("central-2").await.unwrap().unwrap();
    }
    async fn who_lost_the_lease_commits_nothing_also_after_the_next_has_given_it_back_spec_10_8(store: TestStore) {
        store.database.take_lease("central-1").await.unwrap();
        let point = store.owned("CP-1").await;
        store.sql("UPDATE lease SET until_ms = until_ms - 10001").await;
        store.unguarded([RowWrite::Audit(entry("X", "CP-1"))]).await.expect("it ended, and nobody took it");
        store.database.take_lease("central-2").await.unwrap();
        for _ in 0..2 {
            for guard in [None, Some(point.guard())] {
                let refused = store.committer.submit(turn(guard, [RowWrite::Audit(entry("Y", "CP-1"))])).await;
                let Err(CommitRefusal::Unavailable(why)) = &refused else { panic!("{refused:?}") };
                assert!(why.contains("another Central (central-2) has taken"), "{why}");
            }
            assert_eq!(store.database.renew_lease("central-1").await.unwrap(), Err("central-2".to_owned()));
            store.database.give_lease_back("central-2").await.unwrap();
        }
        let found = store.read(|c| AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())).await;
        assert_eq!(found.rows.len(), 1);
        store.database.take_lease("central-1").await.expect("as by a new start");
        store.unguarded([RowWrite::Audit(entry("Z", "CP-1"))]).await.unwrap();
    }
}
