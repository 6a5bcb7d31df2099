//! Messages of the public API as the JSON that protobuf defines for them, by their descriptors.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::{Serialize, Serializer, ser::Error as _};

static CONTRACT: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTORS).ok());

/// Serializes as protobuf's JSON, fields without a value included unless their absence means something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiMessage<M>(pub M);

impl<M: Message + Name> Serialize for ApiMessage<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let descriptor = CONTRACT.as_ref().and_then(|pool| pool.get_message_by_name(&M::full_name()));
        let descriptor = descriptor.ok_or_else(|| S::Error::custom(format!("{} has no descriptor", M::full_name())))?;
        let mut dynamic = DynamicMessage::new(descriptor);
        dynamic.transcode_from(&self.0).map_err(S::Error::custom)?;
        dynamic.serialize_with_options(serializer, &SerializeOptions::new().skip_default_fields(false))
    }
}

/// The JSON of a message, as text.
pub fn api_json<M: Message + Name + Clone>(message: &M) -> String {
    // Every message of the contracts has a descriptor, so this cannot fail.
    serde_json::to_string(&ApiMessage(message.clone())).unwrap_or_default()
}
