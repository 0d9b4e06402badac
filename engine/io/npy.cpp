#include "engine/io/npy.h"

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "engine/io/file.h"

namespace sidechannel {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are copied as they stand");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kAlignment = 64;                     // of the data, as NumPy writes it
constexpr std::size_t kMostHeader = std::size_t{1} << 20;  // NumPy itself reads 10,000 bytes

// As they are written.
constexpr std::array<std::pair<std::string_view, DType>, 6> kTypes = {{{"<f4", DType::kF32},
                                                                       {"<f8", DType::kF64},
                                                                       {"<i4", DType::kI32},
                                                                       {"<i8", DType::kI64},
                                                                       {"|u1", DType::kU8},
                                                                       {"|b1", DType::kBool}}};

// What is read as another type: NumPy's code for kind and width, the narrowest of our types that
// holds all its values (u8 has none, and goes where NumPy itself takes it beside signed integers),
// and how to get there.
struct Conversion {
  std::string_view code;
  DType type;
  void (*convert)(std::span<const std::byte> from, std::span<std::byte> to);
};

template <class From, class To>
void convert(std::span<const std::byte> from, std::span<std::byte> to) {
  for (std::size_t i = 0; i < from.size() / sizeof(From); ++i) {
    From value;
    std::memcpy(&value, from.data() + i * sizeof(From), sizeof(From));
    // i1 is a number, no character. NOLINTNEXTLINE(bugprone-signed-char-misuse)
    const auto converted = static_cast<To>(value);
    std::memcpy(to.data() + i * sizeof(To), &converted, sizeof(To));
  }
}

constexpr auto kConversions = std::to_array<Conversion>({
    {"f2", DType::kF32, convert<Eigen::half, float>},
    {"i1", DType::kI32, convert<std::int8_t, std::int32_t>},
    {"i2", DType::kI32, convert<std::int16_t, std::int32_t>},
    {"u2", DType::kI32, convert<std::uint16_t, std::int32_t>},
    {"u4", DType::kI64, convert<std::uint32_t, std::int64_t>},
    {"u8", DType::kF64, convert<std::uint64_t, double>},
});

// NumPy's other kinds, by the letter that they begin with.
constexpr auto kOtherKinds = std::to_array<std::pair<char, std::string_view>>({
    {'c', "complex numbers"},
    {'O', "objects of Python"},
    {'U', "text"},
    {'S', "text"},
    {'a', "text"},
    {'V', "records"},
    {'M', "dates"},
    {'m', "spans of time"},
});

// A descr, taken apart: "<f4".
struct Elements {
  explicit Elements(std::string_view descr) {
    std::string_view code = descr;
    if (!code.empty() && std::string_view("<>=|").find(code[0]) != std::string_view::npos) {
      big_endian = code[0] == '>';
      code.remove_prefix(1);
    }
    const auto known =
        std::ranges::find(kTypes, code, [](const auto& t) { return t.first.substr(1); });
    conversion = std::ranges::find(kConversions, code, &Conversion::code);
    if (known == kTypes.end() && conversion == kConversions.end()) refuse(descr, code);
    type = known != kTypes.end() ? known->second : conversion->type;
    width = static_cast<std::size_t>(code[1] - '0');
  }

  bool converted() const { return conversion != kConversions.end(); }

  DType type;         // of the array that comes of it
  std::size_t width;  // of an element in the file, in bytes
  bool big_endian = false;
  const Conversion* conversion;

 private:
  [[noreturn]] static void refuse(std::string_view descr, std::string_view code) {
    const auto other = std::ranges::find(kOtherKinds, code.substr(0, 1), [](const auto& kind) {
      return std::string_view(&kind.first, 1);
    });
    throw Error(fmt::format(
        "expected numbers (a descr of f2, f4, f8, i1 to i8, u1 to u8 or b1), got {}{}",
        other != kOtherKinds.end() ? fmt::format("{}, ", other->second) : "", in_quotes(descr)));
  }
};

// Reads the header, one line with a Python dict: {'descr': '<f4', 'fortran_order': False,
// 'shape': (2, 3), }. The keys may stand in any order.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  std::optional<std::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::uint64_t>> shape;

  void parse() {
    expect("{");
    while (!accept("}")) {
      const std::string_view key = string();
      expect(":");
      if (key == "descr") {
        SC_CHECK(!accept("["), "expected numbers, got records (a structured dtype)");
        set(key, descr, string());
      } else if (key == "fortran_order") {
        set(key, fortran_order, boolean());
      } else if (key == "shape") {
        set(key, shape, tuple());
      } else {
        throw Error(fmt::format("expected descr, fortran_order or shape, got {}", in_quotes(key)));
      }
      if (accept(",")) continue;
      if (accept("}")) break;
      refuse("\",\" or \"}\"");
    }
    if (!accept("\n")) refuse("a newline");
    SC_CHECK(rest().empty(), "expected the header's end after its newline, got {}",
             in_quotes(rest()));
    SC_CHECK(descr, "expected a descr, got none");
    SC_CHECK(fortran_order, "expected a fortran_order, got none");
    SC_CHECK(shape, "expected a shape, got none");
  }

 private:
  std::string_view rest() const { return text_.substr(position_); }

  [[noreturn]] void refuse(std::string_view wanted) const {
    throw Error(fmt::format("expected {} at byte {} of the header, got {}", wanted, position_,
                            rest().empty() ? "its end" : in_quotes(rest().substr(0, 1))));
  }

  void skip_spaces() {
    position_ = std::min(text_.find_first_not_of(' ', position_), text_.size());
  }

  bool accept(std::string_view token) {
    skip_spaces();
    if (!rest().starts_with(token)) return false;
    position_ += token.size();
    return true;
  }

  void expect(std::string_view token) {
    if (!accept(token)) refuse(in_quotes(token));
  }

  // No escapes: no key or type that we know has any, and an unknown one is refused.
  std::string_view string() {
    const char quote = accept("'") ? '\'' : accept("\"") ? '"' : '\0';
    if (quote == '\0') refuse("a string");
    const std::size_t size = rest().find(quote);
    SC_CHECK(size != std::string_view::npos, "expected the end of the string {}",
             in_quotes(rest()));
    const std::string_view value = rest().substr(0, size);
    position_ += size + 1;
    return value;
  }

  bool boolean() {
    if (accept("True")) return true;
    if (accept("False")) return false;
    refuse("True or False");
  }

  // "()", "(3,)", "(2, 3)" or "(2, 3,)". As in Python, "(3)" is no tuple.
  std::vector<std::uint64_t> tuple() {
    std::vector<std::uint64_t> values;
    expect("(");
    while (!accept(")")) {
      SC_CHECK(values.size() < Shape::kMaxRank, "expected at most {} dimensions, got more",
               Shape::kMaxRank);
      values.push_back(number());
      if (accept(",")) continue;
      if (values.size() > 1 && accept(")")) break;
      refuse(values.size() > 1 ? "\",\" or \")\"" : "\",\"");
    }
    return values;
  }

  std::uint64_t number() {
    skip_spaces();
    std::uint64_t value = 0;
    const char* const begin = rest().data();
    const auto [end, error] = std::from_chars(begin, begin + rest().size(), value);
    const std::string_view digits(begin, static_cast<std::size_t>(end - begin));
    if (error == std::errc::invalid_argument) refuse("an unsigned integer");
    SC_CHECK(digits.size() == 1 || digits[0] != '0', "expected a dimension, got {}",
             in_quotes(digits));
    SC_CHECK(error == std::errc(), "expected a dimension of 64 bits, got {}", in_quotes(digits));
    position_ += digits.size();
    return value;
  }

  template <class T>
  static void set(std::string_view key, std::optional<T>& field, T value) {
    SC_CHECK(!field, "expected one {}, got two", key);
    field = std::move(value);
  }

  std::string_view text_;
  std::size_t position_ = 0;
};

// The same elements in C order: in Fortran's, the first axis is the one that runs fastest.
std::vector<std::byte> in_c_order(std::span<const std::byte> bytes, const Shape& shape,
                                  std::size_t width) {
  std::array<std::size_t, Shape::kMaxRank> strides{};  // of the axes in `bytes`, in bytes
  std::size_t stride = width;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    strides[static_cast<std::size_t>(axis)] = stride;
    stride *= static_cast<std::size_t>(shape[axis]);
  }
  std::array<std::int64_t, Shape::kMaxRank> index{};
  std::size_t from = 0;
  std::vector<std::byte> out(bytes.size());
  for (std::size_t to = 0; to < out.size(); to += width) {
    std::memcpy(&out[to], &bytes[from], width);
    for (int axis = shape.rank(); axis-- > 0;) {  // on to the next index
      const auto at = static_cast<std::size_t>(axis);
      from += strides[at];
      if (++index[at] < shape[axis]) break;
      from -= strides[at] * static_cast<std::size_t>(index[at]);
      index[at] = 0;
    }
  }
  return out;
}

// What stands before the data.
struct Layout {
  Elements elements;
  bool fortran_order;
  Shape shape;
};

// Reads it, and checks that the data which it announces is all that follows.
Layout layout_of(ByteSource& source) {
  const auto take = [&](std::size_t count, std::string_view what) {
    SC_CHECK(count <= source.left(), "expected {} bytes of {}, got {}", count, what, source.left());
    return std::string(text_of(source.take(count)));
  };
  const std::string magic = take(kMagic.size(), "magic");
  SC_CHECK(magic == kMagic, "expected the magic {}, got {}", in_quotes(kMagic), in_quotes(magic));
  const std::string version = take(2, "version");
  const int major = static_cast<unsigned char>(version[0]);
  const int minor = static_cast<unsigned char>(version[1]);
  SC_CHECK(major >= 1 && major <= 3 && minor == 0, "expected version 1.0, 2.0 or 3.0, got {}.{}",
           major, minor);
  std::uint32_t length = 0;
  const std::string length_bytes = take(major == 1 ? 2 : 4, "header length");
  std::memcpy(&length, length_bytes.data(), length_bytes.size());
  SC_CHECK(length <= kMostHeader || length > source.left(),
           "expected a header of at most {} bytes, got {}", kMostHeader, length);

  const std::string text = take(length, "header");
  HeaderParser header(text);
  header.parse();
  const Elements elements(*header.descr);
  const Shape shape(std::span(*header.shape));
  const std::uint64_t needed = static_cast<std::uint64_t>(shape.size()) * elements.width;
  SC_CHECK(source.left() == needed, "expected {} bytes for {} {}, got {}", needed, *header.descr,
           shape.str(), source.left());
  return {elements, *header.fortran_order, shape};
}

HostArray parse(ByteSource source) {
  const auto [elements, fortran_order, shape] = layout_of(source);
  std::vector<std::byte> data = source.take(source.left());
  if (fortran_order) data = in_c_order(data, shape, elements.width);
  if (elements.big_endian) {
    for (std::size_t at = 0; at < data.size(); at += elements.width) {
      std::reverse(&data[at], &data[at] + elements.width);
    }
  }
  if (!elements.converted()) return checked_array(elements.type, shape, std::move(data));
  HostArray array(elements.type, shape);
  elements.conversion->convert(data, array.bytes);
  return array;
}

}  // namespace

NpyHeader npy_header(const std::filesystem::path& path) {
  return in_context(path.string(), [&] {
    ByteSource source(path);
    const Layout layout = layout_of(source);
    return NpyHeader{layout.elements.type, layout.shape};
  });
}

HostArray read_npy(const std::filesystem::path& path) {
  return in_context(path.string(), [&] { return parse(ByteSource(path)); });
}

HostArray parse_npy(std::span<const std::byte> bytes, std::string_view name) {
  return in_context(name, [&] { return parse(ByteSource(bytes)); });
}

HostArray converted(const HostArray& array, DType to) {
  if (array.dtype == to) return array;
  HostArray result(to, array.shape);
  const auto convert_where = [&]<class From>(From /*type*/, DType type) {
    if (array.dtype != type) return;
    if (to == DType::kF32) return convert<From, float>(array.bytes, result.bytes);
    SC_CHECK(to == DType::kF64, "cannot convert {} to {}", name_of(array.dtype), name_of(to));
    convert<From, double>(array.bytes, result.bytes);
  };
  convert_where(float(), DType::kF32);
  convert_where(double(), DType::kF64);
  convert_where(std::int32_t(), DType::kI32);
  convert_where(std::int64_t(), DType::kI64);
  convert_where(std::uint8_t(), DType::kU8);
  convert_where(std::uint8_t(), DType::kBool);
  return result;
}

std::vector<std::byte> serialize_npy(const HostArray& array) {
  const std::size_t needed = static_cast<std::size_t>(array.shape.size()) * size_of(array.dtype);
  SC_CHECK(array.bytes.size() == needed, "cannot write an array: expected {} bytes for {}, got {}",
           needed, array.shape.str(), array.bytes.size());
  const auto type = std::ranges::find(kTypes, array.dtype, [](const auto& t) { return t.second; });
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", type->first,
                  fmt::join(array.shape, ", "), array.shape.rank() == 1 ? "," : "");
  constexpr std::size_t kPreamble = kMagic.size() + 2 + sizeof(std::uint16_t);
  const std::size_t unpadded = kPreamble + header.size() + 1;
  header.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ').push_back('\n');

  const auto length = static_cast<std::uint16_t>(header.size());
  std::string text = fmt::format("{}{}{}", kMagic, '\1', '\0');
  text.append(reinterpret_cast<const char*>(&length), sizeof(length)).append(header);
  const auto preamble = std::as_bytes(std::span(text));
  std::vector<std::byte> out(preamble.begin(), preamble.end());
  out.insert(out.end(), array.bytes.begin(), array.bytes.end());
  return out;
}

void write_npy(const std::filesystem::path& path, const HostArray& array) {
  const auto bytes = in_context(path.string(), [&] { return serialize_npy(array); });
  write_file_durably(path, bytes);
}

}  // namespace sidechannel
