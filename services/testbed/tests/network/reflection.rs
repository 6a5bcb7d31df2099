//! A gRPC client that is built from reflection: it asks a server for its methods, and calls them (SPEC 7.2).

use std::collections::{BTreeMap, BTreeSet};

use mesh::client::Channel;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};
use testbed::{network::PATIENCE, operator::fresh_id};
use tokio::time::{Duration, timeout};
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

/// How long to wait for the first message of a stream, which may have none.
const SILENCE: Duration = Duration::from_millis(300);
const POLICY: &str = "chargemesh.policy.v1.policy";

/// The two versions of the reflection service differ in their package only.
macro_rules! reflection {
    ($version:ident) => {
        pub(crate) mod $version {
            use anyhow::Context as _;
            use mesh::client::Channel;
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };

            async fn ask(channel: &Channel, question: MessageRequest) -> anyhow::Result<MessageResponse> {
                let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
                let mut client = ServerReflectionClient::new(channel.clone());
                let answers = client.server_reflection_info(tokio_stream::once(request)).await?;
                let answer = answers.into_inner().message().await?.context("no answer")?;
                answer.message_response.context("an empty answer")
            }

            pub(crate) async fn services(channel: &Channel) -> anyhow::Result<Vec<String>> {
                match ask(channel, MessageRequest::ListServices(String::new())).await? {
                    MessageResponse::ListServicesResponse(list) => {
                        Ok(list.service.into_iter().map(|service| service.name).collect())
                    }
                    other => anyhow::bail!("no list of services: {other:?}"),
                }
            }

            /// The encoded descriptor of the file that defines `symbol`.
            pub(crate) async fn file_of(channel: &Channel, symbol: &str) -> anyhow::Result<Vec<u8>> {
                file(channel, MessageRequest::FileContainingSymbol(symbol.to_owned())).await
            }

            pub(crate) async fn file_named(channel: &Channel, name: &str) -> anyhow::Result<Vec<u8>> {
                file(channel, MessageRequest::FileByFilename(name.to_owned())).await
            }

            async fn file(channel: &Channel, question: MessageRequest) -> anyhow::Result<Vec<u8>> {
                match ask(channel, question).await? {
                    MessageResponse::FileDescriptorResponse(files) => {
                        files.file_descriptor_proto.into_iter().next().context("no file")
                    }
                    other => anyhow::bail!("no description: {other:?}"),
                }
            }
        }
    };
}

reflection!(v1);
reflection!(v1alpha);

/// What a server describes by reflection.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) services: BTreeSet<String>,
    pub(crate) pool: DescriptorPool,
}

/// Calls both versions of reflection, which must answer the same.
pub(crate) async fn describe(channel: &Channel) -> anyhow::Result<Described> {
    let services: BTreeSet<String> = v1::services(channel).await?.into_iter().collect();
    let alpha: BTreeSet<String> = v1alpha::services(channel).await?.into_iter().collect();
    anyhow::ensure!(services == alpha, "v1 lists {services:?}, v1alpha {alpha:?}");
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for service in &services {
        let encoded = v1::file_of(channel, service).await?;
        anyhow::ensure!(encoded == v1alpha::file_of(channel, service).await?, "v1alpha describes another {service}");
        let mut new = vec![encoded];
        while let Some(encoded) = new.pop() {
            let file = prost_types::FileDescriptorProto::decode(&*encoded)?;
            files.insert(file.name().to_owned(), encoded);
            for name in file.dependency.iter().filter(|name| !files.contains_key(*name)) {
                let encoded = v1::file_named(channel, name).await?;
                anyhow::ensure!(encoded == v1alpha::file_named(channel, name).await?, "v1alpha has another {name}");
                new.push(encoded);
            }
        }
    }
    // As received: decoded and encoded again they would have lost the options that prost does not know.
    let mut set = Vec::new();
    files.values().for_each(|file| prost::encoding::bytes::encode(1, file, &mut set));
    Ok(Described { services, pool: DescriptorPool::decode(&*set)? })
}

impl Described {
    /// Every method of every service that the server lists.
    pub(crate) fn methods(&self) -> Vec<MethodDescriptor> {
        let listed = self.pool.services().filter(|service| self.services.contains(service.full_name()));
        listed.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
    }
}

/// The roles that may call a method by its option; `None` where it has none.
pub(crate) fn callers(method: &MethodDescriptor) -> Option<BTreeSet<String>> {
    let extension = method.parent_pool().get_extension_by_name(POLICY)?;
    let options = method.options();
    if !options.has_extension(&extension) {
        return None;
    }
    let policy = options.get_extension(&extension);
    let callers = policy.as_message()?.get_field_by_name("callers")?.into_owned();
    let names = method.parent_pool().get_enum_by_name("chargemesh.policy.v1.Caller")?;
    let name = |caller: &Value| Some(names.get_value(caller.as_enum_number()?)?.name().to_owned());
    callers.as_list()?.iter().map(name).collect()
}

/// `/package.Service/Method`.
pub(crate) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// A request with a value in every field, about `object` where it has a field for one.
pub(crate) fn example(message: &MessageDescriptor, object: &str) -> DynamicMessage {
    let mut example = DynamicMessage::new(message.clone());
    for field in message.fields() {
        if let Some(value) = value(&field, object) {
            example.set_field(&field, value);
        }
    }
    example
}

fn value(field: &FieldDescriptor, object: &str) -> Option<Value> {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    match (field.name(), field.kind()) {
        ("ids", Kind::String) => Some(Value::List(vec![Value::String(object.to_owned())])),
        ("request_id", _) => Some(Value::String(fresh_id())),
        ("id", _) => text(object),
        ("name", _) => text("nora"),
        ("reason", Kind::String) => text("because it is tried"),
        ("session_id" | "order_id" | "token_id", _) => text("none"),
        ("page_size", _) => Some(Value::U32(10)),
        ("price_e4", _) => Some(Value::U32(4_200)),
        ("rated_power_w", _) => Some(Value::U32(22_000)),
        ("uses", _) => Some(Value::U32(1)),
        ("owed_wh", _) => Some(Value::U64(0)),
        ("amount_delta_minor", _) => Some(Value::I64(-1)),
        ("on", _) => Some(Value::Bool(true)),
        ("id_pattern" | "city", _) if field.containing_oneof().is_none() => text("Valencia"),
        ("kinds", _) => Some(Value::List(vec![Value::EnumNumber(1)])),
        ("lifetime", Kind::Message(inner)) => {
            let mut lifetime = DynamicMessage::new(inner);
            lifetime.set_field_by_name("seconds", Value::I64(60));
            Some(Value::Message(lifetime))
        }
        // Another field of this oneof (`ids`) is set above.
        _ if field.containing_oneof().is_some() && field.name() != "ids" => None,
        ("selector" | "ids" | "filter", Kind::Message(inner)) => Some(Value::Message(example(&inner, object))),
        (_, Kind::Enum(_)) if !field.is_list() && field.name() != "state" => Some(Value::EnumNumber(1)),
        _ => None,
    }
}

/// The first message that answers a call; `None` from a stream that sends none yet.
pub(crate) async fn call(
    channel: &Channel,
    method: &MethodDescriptor,
    request: DynamicMessage,
) -> Result<Option<DynamicMessage>, Status> {
    let path = PathAndQuery::try_from(path(method)).map_err(|error| Status::internal(error.to_string()))?;
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let request = Request::new(tokio_stream::once(request));
    // On the wire, a unary call and a server stream are the same.
    let mut answers = client.streaming(request, path, Dynamic(method.output())).await?.into_inner();
    if method.is_server_streaming() {
        return timeout(SILENCE, answers.message()).await.unwrap_or(Ok(None));
    }
    let silent = |_| Err(Status::unknown("headers, and then no message"));
    timeout(PATIENCE, answers.message()).await.unwrap_or_else(silent)
}

/// A codec for messages of types that were read from a descriptor.
#[derive(Clone, Debug)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), buffer);
        message.map(Some).map_err(|error| Status::internal(format!("the answer is no {}: {error}", self.0.full_name())))
    }
}
