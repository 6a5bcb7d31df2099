//! Both providers against a stand-in that answers as they do, and as they should not.

use clap::Parser;

use super::*;
use crate::tests::StandIn;

#[derive(Parser)]
#[command(args_override_self = true)]
struct ProviderArgs {
    #[command(flatten)]
    provider: ProviderConfig,
}

fn provider(stand_in: &StandIn, more: &[&str], key: ApiKey) -> Arc<dyn Provider> {
    mesh::process::install_cryptography();
    let url = stand_in.url();
    let args = ["test", "--weather-url", &url].into_iter().chain(more.iter().copied());
    of(&ProviderArgs::try_parse_from(args).unwrap().provider, Arc::new(key)).unwrap()
}

fn open_weather(stand_in: &StandIn) -> Arc<dyn Provider> {
    provider(stand_in, &["--provider-timeout", "300ms"], ApiKey::new(None, Some("right")))
}

async fn ask(provider: &Arc<dyn Provider>, city: &str) -> Result<Option<f64>, ProviderError> {
    provider.ask(&city.into()).await.map(|answer| answer.map(Temperature::celsius))
}

#[tokio::test]
async fn open_weather_answers_in_celsius_and_no_error_shows_the_key_spec_6_1() {
    let stand_in = StandIn::start().await;
    let provider = open_weather(&stand_in);
    stand_in.set("Oslo", 200, r#"{"main":{"temp":-5.25},"cod":200}"#);
    assert_eq!(ask(&provider, "Oslo").await, Ok(Some(-5.25)));
    assert_eq!(stand_in.seen().last().unwrap(), "/data/2.5/weather?q=Oslo&units=metric&appid=right");

    for (status, body) in [
        (200, r#"{"main":{"temp":268.15}}"#),
        (200, r#"{"main":{"temp":-300}}"#),
        (200, r#"{"main":{"temp":NaN}}"#),
        (200, r#"{"main":{"temp":null}}"#),
        (200, r#"{"main":{"temp":"#),
        (200, "[]"),
        (200, ""),
        (200, &"x".repeat(LARGEST_ANSWER + 1)),
        (500, "{}"),
        (302, "{}"),
        (418, "{}"),
    ] {
        stand_in.set("Oslo", status, body);
        let error = ask(&provider, "Oslo").await.unwrap_err();
        assert!(!error.to_string().contains("right"), "{error}");
        let is_unusable = matches!(error, ProviderError::Unusable(_));
        assert_eq!(is_unusable, status == 200, "{status} {error}");
        assert_eq!(matches!(error, ProviderError::Unavailable(_)), status != 200, "{status} {error}");
    }
}

#[tokio::test]
async fn a_temperature_in_kelvin_is_refused_in_words_spec_6_1() {
    let stand_in = StandIn::start().await;
    stand_in.set("Oslo", 200, r#"{"main":{"temp":268.15}}"#);
    let error = ask(&open_weather(&stand_in), "Oslo").await.unwrap_err().to_string();
    assert_eq!(error, "the provider's answer is not usable: 268.15 is no temperature of air in °C");
}

#[tokio::test]
async fn a_refused_key_an_unknown_city_and_a_busy_provider_are_told_apart_spec_6_5() {
    let stand_in = StandIn::start().await;
    let provider = open_weather(&stand_in);
    stand_in.set("Oslo", 401, r#"{"cod":401,"message":"Invalid API key"}"#);
    let error = ask(&provider, "Oslo").await.unwrap_err();
    assert!(matches!(&error, ProviderError::KeyRefused(why) if why.contains("CHARGEMESH_WEATHER_KEY")), "{error}");
    assert!(matches!(ask(&provider, "Atlantis").await, Err(ProviderError::UnknownCity(city)) if &*city == "Atlantis"));
    stand_in.set("Oslo", 429, "{}");
    assert_eq!(ask(&provider, "Oslo").await, Err(ProviderError::Busy(StandIn::RETRY_AFTER)));
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_given_up_after_its_time_spec_6_5() {
    let stand_in = StandIn::start().await;
    stand_in.set("Oslo", StandIn::HANGS, "");
    let error = ask(&open_weather(&stand_in), "Oslo").await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unavailable(why) if why.ends_with("no answer in time")), "{error}");
    let nobody = provider(&stand_in, &["--weather-url", "http://127.0.0.1:1"], ApiKey::new(None, Some("right")));
    let error = ask(&nobody, "Oslo").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot reach http://127.0.0.1:1/data/2.5/weather: "), "{error}");
    assert!(!error.contains("right"), "{error}");
}

#[tokio::test]
async fn without_a_key_open_weather_is_not_asked_spec_6_1() {
    let stand_in = StandIn::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let provider = provider(&stand_in, &[], ApiKey::new(Some(file.clone()), None));
    assert!(matches!(ask(&provider, "Oslo").await, Err(ProviderError::KeyRefused(why)) if why.contains("cannot read")));
    std::fs::write(&file, "\n").unwrap();
    assert!(matches!(ask(&provider, "Oslo").await, Err(ProviderError::KeyRefused(why)) if why.contains("is empty")));
    assert!(stand_in.seen().is_empty());
    std::fs::write(&file, "right\n").unwrap();
    stand_in.set("Oslo", 200, r#"{"main":{"temp":1}}"#);
    assert_eq!(ask(&provider, "Oslo").await, Ok(Some(1.0)));
}

#[tokio::test]
async fn open_meteo_finds_the_city_once_and_then_its_temperature_spec_6_1() {
    let stand_in = StandIn::start().await;
    let provider = provider(&stand_in, &["--provider", "open-meteo"], ApiKey::new(None, None));
    assert_eq!(ask(&provider, "Atlantis").await, Err(ProviderError::UnknownCity("Atlantis".into())));
    stand_in.set("Oslo", 200, r#"{"results":[{"latitude":59.91273,"longitude":10.74609}]}"#);
    stand_in.set("59.91273", 200, r#"{"current":{"temperature_2m":-0.1}}"#);
    assert_eq!(ask(&provider, "Oslo").await, Ok(None), "one request a call");
    assert_eq!(ask(&provider, "Oslo").await, Ok(Some(-0.1)));
    assert_eq!(ask(&provider, "Oslo").await, Ok(Some(-0.1)));
    assert_eq!(stand_in.seen().iter().filter(|path| path.starts_with("/v1/search?name=Oslo")).count(), 1);
}
