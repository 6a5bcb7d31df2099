//! Refuses requests without a request id where the method's policy requires one, so that no service has to check. The
//! id is found in the encoded request by its field number.

use axum::{body::Body, http::Request, middleware::Next, response::Response};
use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Limited};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use proto::link::v1::Reason;
use tonic::Status;

use crate::{policy, status::refuse};

/// tonic's limit for a message, plus its frame.
const MAX_BODY: usize = 4 * 1024 * 1024 + 5;
/// Maximum length of an id, in bytes, since it is stored.
const MAX_ID: usize = 128;

pub(super) async fn require(request: Request<Body>, next: Next) -> Response {
    let Some(field) = policy::rule(request.uri().path()).and_then(|rule| rule.request_id) else {
        return next.run(request).await;
    };
    let (parts, body) = request.into_parts();
    match check(body, field).await {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(status) => status.into_http(),
    }
}

async fn check(body: Body, field: u32) -> Result<Bytes, Status> {
    let whole = Limited::new(body, MAX_BODY).collect().await;
    let whole = whole.map_err(|error| Status::cancelled(format!("the request ended early: {error}")))?.to_bytes();
    // One message: an uncompressed flag (no service accepts compression), its length, and the message.
    let message = whole.get(5..).filter(|_| whole.first() == Some(&0)).unwrap_or_default();
    match text_field(message, field) {
        None => Err(refuse(Reason::RequestIdMissing, "choose one, such as a UUID, and keep it when you try again")),
        Some(length) if length > MAX_ID => {
            Err(refuse(Reason::Invalid, format!("the request_id has {length} bytes; at most {MAX_ID} are taken")))
        }
        Some(_) => Ok(whole),
    }
}

/// The length of the text in field `number`, if it is present and not empty; `None` also for bytes that are not a
/// message.
fn text_field(mut message: &[u8], number: u32) -> Option<usize> {
    let mut found = None;
    while message.has_remaining() {
        let (key, wire_type) = decode_key(&mut message).ok()?;
        if key == number && wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
            message = message.get(length..)?;
            // As in every protobuf decoder, the last occurrence counts.
            found = Some(length);
        } else {
            skip_field(wire_type, key, &mut message, DecodeContext::default()).ok()?;
        }
    }
    found.filter(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::central::v1::{MoveRequest, SetPriceRequest};

    use super::*;

    #[test]
    fn the_request_id_is_found_in_the_bytes_wherever_it_stands() {
        let of = |id: &str| SetPriceRequest { request_id: id.into(), price_e4: Some(3950), ..Default::default() };
        assert_eq!(text_field(&of("r-1").encode_to_vec(), 1), Some(3));
        assert_eq!(text_field(&of("").encode_to_vec(), 1), None);
        assert_eq!(text_field(&MoveRequest { city: "Bern".into(), ..Default::default() }.encode_to_vec(), 1), None);
        let behind =
            [MoveRequest { city: "Bern".into(), ..Default::default() }.encode_to_vec(), of("r").encode_to_vec()];
        assert_eq!(text_field(&behind.concat(), 1), Some(1));
        for garbage in [&[0xff][..], &[0x0a, 0x80], &[0x0a, 0x05, b'x']] {
            assert_eq!(text_field(garbage, 1), None);
        }
    }
}
