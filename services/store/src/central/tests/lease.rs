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
}
