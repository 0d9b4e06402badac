#include "engine/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/crc.hpp>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>

namespace sidechannel {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors are copied as they stand");

constexpr std::uint64_t kMaxHeader = 100'000'000;  // as in the reference implementation
constexpr std::size_t kLengthBytes = sizeof(std::uint64_t);
constexpr std::size_t kAlignment = 8;  // of the data section, whose start the header is padded to
constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kChecksum = "sidechannel.crc32";

// In the order in which the reference implementation writes tensors: widest first, so that each
// starts at a multiple of its width.
constexpr std::array<std::pair<std::string_view, DType>, 6> kTypes = {{{"I64", DType::kI64},
                                                                       {"F64", DType::kF64},
                                                                       {"F32", DType::kF32},
                                                                       {"I32", DType::kI32},
                                                                       {"U8", DType::kU8},
                                                                       {"BOOL", DType::kBool}}};

constexpr auto kUnsupportedTypes =
    std::to_array<std::string_view>({"U64", "C64", "U32", "BF16", "F16", "U16", "I16", "I8",
                                     "F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4"});

std::string crc_text(const boost::crc_32_type& crc) {
  return fmt::format("{:08x}", crc.checksum());
}

std::string tensor(std::string_view name) {
  return "tensor " + in_quotes(name);
}

constexpr auto kFields = std::to_array<std::string_view>({"dtype", "shape", "data_offsets"});

// What the header says of one tensor.
struct Entry {
  std::string dtype;
  std::vector<std::uint64_t> shape, offsets;
};

// Takes the header's JSON event by event and refuses the first that has no place, so that nothing
// nests deeper than a shape and no key comes twice. (nlohmann's ready-made documents keep the last
// of two equal keys, and with callbacks they take quadratic time on a header of many tensors.)
class Header : public nlohmann::json_sax<json> {
 public:
  explicit Header(std::string_view text) : text_(text) { json::sax_parse(text, this); }

  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    accept("an object");
    keys_.at(++depth_).clear();
    return true;
  }

  bool key(std::string& key) override {
    (depth_ == 1 ? name_ : field_) = key;
    SC_CHECK(keys_.at(depth_).insert(key).second, "{}: expected one value, got two", place());
    SC_CHECK(depth_ == 1 || name_ == kMetadata || std::ranges::count(kFields, key) == 1,
             "{}: unexpected key, expected dtype, shape or data_offsets", place());
    return true;
  }

  bool end_object() override {
    if (depth_-- == 2 && name_ != kMetadata) {
      for (const std::string_view field : kFields) {
        SC_CHECK(keys_[2].contains(field), "{}: expected a {}, got none", place(), field);
      }
    }
    return true;
  }

  bool start_array(std::size_t) override {
    accept("an array");
    ++depth_;
    return true;
  }

  bool end_array() override {
    --depth_;
    const std::size_t count = numbers().size();
    SC_CHECK(field_ == "shape" || count == 2, "{}: expected 2 numbers, got {}", place(), count);
    return true;
  }

  bool number_unsigned(std::uint64_t value) override {
    accept("an unsigned integer", fmt::to_string(value));
    const std::size_t most = field_ == "shape" ? Shape::kMaxRank : 2;
    SC_CHECK(numbers().size() < most, "{}: expected at most {} numbers, got more", place(), most);
    numbers().push_back(value);
    return true;
  }

  bool string(std::string& value) override {
    accept("a string");
    (name_ == kMetadata ? metadata[field_] : entries[name_].dtype) = value;
    return true;
  }

  // Only what is written with a minus, -0 among it.
  bool number_integer(std::int64_t value) override {
    return refuse(value == 0 ? "-0" : fmt::to_string(value));
  }
  bool number_float(double, const std::string& text) override { return refuse(text.substr(0, 40)); }
  bool boolean(bool value) override { return refuse(value ? "true" : "false"); }
  bool null() override { return refuse("null"); }
  bool binary(json::binary_t&) override { return refuse("binary"); }

  // `count` characters were read, the last of which has no place.
  bool parse_error(std::size_t count, const std::string&, const json::exception&) override {
    throw Error(fmt::format(
        "expected JSON, got {} at byte {} of the header",
        count > text_.size() ? "its end" : in_quotes(text_.substr(count - 1, 1)), count - 1));
  }

 private:
  std::vector<std::uint64_t>& numbers() {
    return field_ == "shape" ? entries[name_].shape : entries[name_].offsets;
  }

  // Where the next value belongs, and what it has to be.
  std::string place() const {
    const std::string name = name_ == kMetadata ? name_ : tensor(name_);
    return depth_ < 2 ? name : fmt::format("{}: {}", name, in_quotes(field_));
  }
  std::string_view wanted() const {
    if (depth_ < 2) return "an object";
    if (depth_ == 3) return "an unsigned integer";
    return name_ == kMetadata || field_ == "dtype" ? "a string" : "an array";
  }
  void accept(std::string_view kind, std::string_view value = {}) const {
    if (kind != wanted()) refuse(value.empty() ? kind : value);
  }
  [[noreturn]] bool refuse(std::string_view got) const {
    throw Error(fmt::format("{}: expected {}, got {}", place(), wanted(), got));
  }

  std::string_view text_;
  std::size_t depth_ = 0;  // 1 in the header, 2 in a tensor or __metadata__, 3 among its numbers
  std::string name_;       // the latest key at depth 1
  std::string field_;      // the latest key at depth 2
  std::array<std::set<std::string, std::less<>>, 3> keys_;  // so far in the open object, by depth
};

// A tensor's place in the data section.
struct Slot {
  std::uint64_t begin, end;
  std::string_view name;
  DType type;
  Shape shape;
};

DType type_of(std::string_view name) {
  SC_CHECK(std::ranges::find(kUnsupportedTypes, name) == kUnsupportedTypes.end(),
           "expected F32, F64, I32, I64, U8 or BOOL, got {}, which is not supported here", name);
  const auto type = std::ranges::find(kTypes, name, [](const auto& t) { return t.first; });
  SC_CHECK(type != kTypes.end(), "expected a dtype of the format, got {}", in_quotes(name));
  return type->second;
}

Slot checked_slot(std::string_view name, const Entry& entry, std::uint64_t data_size) {
  const DType type = type_of(entry.dtype);
  const Slot slot{entry.offsets[0], entry.offsets[1], name, type, Shape(std::span(entry.shape))};
  SC_CHECK(slot.begin <= slot.end, "expected data_offsets in order, got [{}, {}]", slot.begin,
           slot.end);
  SC_CHECK(slot.end <= data_size, "expected data to byte {}, got only {} bytes", slot.end,
           data_size);
  const std::uint64_t needed = static_cast<std::uint64_t>(slot.shape.size()) * size_of(type);
  SC_CHECK(slot.end - slot.begin == needed, "expected {} bytes for {} {}, got data_offsets of {}",
           needed, entry.dtype, slot.shape.str(), slot.end - slot.begin);
  return slot;
}

// The slots in the order of their data, which they share out without overlap, hole or tail. Only
// after this is the sum of their sizes known to be that of the file.
std::vector<Slot> checked_slots(const std::map<std::string, Entry>& entries,
                                std::uint64_t data_size) {
  std::vector<Slot> slots;
  for (const auto& named : entries) {
    slots.push_back(in_context(tensor(named.first),
                               [&] { return checked_slot(named.first, named.second, data_size); }));
  }
  std::ranges::sort(slots, {}, [](const Slot& s) { return std::tie(s.begin, s.end, s.name); });
  std::uint64_t position = 0;
  for (const Slot& slot : slots) {
    SC_CHECK(slot.begin >= position, "{}: expected data from byte {} on, got {}: tensors overlap",
             tensor(slot.name), position, slot.begin);
    SC_CHECK(slot.begin == position, "{}: expected data from byte {} on, got {}: there is a hole",
             tensor(slot.name), position, slot.begin);
    position = slot.end;
  }
  SC_CHECK(position == data_size, "expected {} bytes of data, got {}", position, data_size);
  return slots;
}

SafetensorsFile parse(ByteSource source,
                      const std::function<void(const SafetensorsHeader&)>& look = {}) {
  SC_CHECK(source.left() >= kLengthBytes, "expected at least {} bytes, got {}", kLengthBytes,
           source.left());
  std::uint64_t length = 0;
  std::memcpy(&length, source.take(kLengthBytes).data(), kLengthBytes);
  SC_CHECK(length <= kMaxHeader, "expected a header of at most {} bytes, got {}", kMaxHeader,
           length);
  SC_CHECK(length <= source.left(), "expected a header of {} bytes, got only {}", length,
           source.left());
  const std::vector<std::byte> header_bytes = source.take(length);
  const std::string_view text = text_of(header_bytes);

  SC_CHECK(text.starts_with('{'), "expected a header that begins with '{{', got {}",
           in_quotes(text.substr(0, 1)));
  // The parser would take a zero byte for the end and leave the rest unread.
  SC_CHECK(text.find('\0') == text.npos, "expected text in the header, got a zero byte at {}",
           text.find('\0'));
  Header header(text);
  const std::vector<Slot> slots = checked_slots(header.entries, source.left());

  if (look) {
    SafetensorsHeader said{{}, header.metadata};
    for (const Slot& slot : slots) said.shapes.emplace(slot.name, slot.shape);
    look(said);
  }
  SafetensorsFile file{{}, std::move(header.metadata)};
  const auto checksum = file.metadata.find(std::string(kChecksum));
  const bool summed = checksum != file.metadata.end();
  boost::crc_32_type crc;
  std::vector<std::vector<std::byte>> parts;  // the slots share out the data in their order
  for (const Slot& slot : slots) {
    parts.push_back(source.take(slot.end - slot.begin));
    if (summed) crc.process_bytes(parts.back().data(), parts.back().size());
  }
  if (summed) {
    SC_CHECK(checksum->second == crc_text(crc), "checksum mismatch: expected {}, got {}",
             in_quotes(checksum->second), in_quotes(crc_text(crc)));
    file.metadata.erase(checksum);
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const Slot& slot = slots[i];
    file.tensors[std::string(slot.name)] = in_context(tensor(slot.name), [&] {
      return checked_array(slot.type, slot.shape, std::move(parts[i]));
    });
  }
  return file;
}

std::string json_text(const json& value) try {
  return value.dump();
} catch (const json::exception&) {
  throw Error("cannot write a name or metadata that is not UTF-8");
}

}  // namespace

SafetensorsFile read_safetensors(const std::filesystem::path& path,
                                 const std::function<void(const SafetensorsHeader&)>& look) {
  return in_context(path.string(), [&] { return parse(ByteSource(path), look); });
}

SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, std::string_view name) {
  return in_context(name, [&] { return parse(ByteSource(bytes)); });
}

std::vector<std::byte> serialize_safetensors(const SafetensorsFile& file) {
  std::vector<std::byte> data;
  std::string entries;
  for (const auto& [type_name, type] : kTypes) {
    for (const auto& [name, array] : file.tensors) {
      if (array.dtype != type) continue;
      SC_CHECK(name != kMetadata, "cannot write {}: the name is reserved", tensor(name));
      const std::size_t needed = static_cast<std::size_t>(array.shape.size()) * size_of(type);
      SC_CHECK(array.bytes.size() == needed, "cannot write {}: expected {} bytes for {}, got {}",
               tensor(name), needed, array.shape.str(), array.bytes.size());
      const std::size_t begin = data.size();
      data.insert(data.end(), array.bytes.begin(), array.bytes.end());
      entries +=
          fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                      json_text(name), type_name, fmt::join(array.shape, ","), begin, data.size());
    }
  }
  boost::crc_32_type crc;
  crc.process_bytes(data.data(), data.size());
  auto metadata = file.metadata;
  metadata[std::string(kChecksum)] = crc_text(crc);
  std::string header = fmt::format(R"({{"{}":{}{}}})", kMetadata, json_text(metadata), entries);
  header.resize((header.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const std::uint64_t length = header.size();
  SC_CHECK(length <= kMaxHeader, "cannot write a header of {} bytes: the format allows {}", length,
           kMaxHeader);

  std::vector<std::byte> out;
  out.reserve(kLengthBytes + header.size() + data.size());
  for (const auto part : {std::as_bytes(std::span(&length, 1)), std::as_bytes(std::span(header)),
                          std::span<const std::byte>(data)}) {
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file,
                       KeepPrevious keep) {
  const auto bytes = in_context(path.string(), [&] { return serialize_safetensors(file); });
  write_file_durably(path, bytes, keep);
}

}  // namespace sidechannel
