#include "engine/io/json.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

using harness::error_of;

std::string refusal(const std::string& text) {
  const std::string message = error_of([&] { parse_json(text, "f.json"); });
  return message.starts_with("f.json: ") ? message.substr(8) : message;
}

TEST(Json, ReadsWhatIsWritten) {
  for (const char* text : {"null", "{}", "[]", R"({"b":1,"a":[true,-2,0.5,"\u00e9\n"]})"}) {
    const Json json = parse_json(text, "f.json");
    EXPECT_EQ(parse_json(json_text(json), "f.json"), json);
  }
  EXPECT_EQ(json_text(parse_json(R"({"b":1,"a":2})", "f.json")), R"({"b":1,"a":2})");
  EXPECT_EQ(parse_json(" 18446744073709551615 ", "f").get<std::uint64_t>(), ~std::uint64_t{0});
}

TEST(Json, SaysWhereItIsNoJson) {
  EXPECT_EQ(refusal(""), "expected JSON, got its end at line 1, column 1");
  EXPECT_EQ(refusal("{"), "expected JSON, got its end at line 1, column 2");
  EXPECT_EQ(refusal("{\n  \"a\": 1,\n}"), R"(expected JSON, got "}" at line 3, column 1)");
  EXPECT_EQ(refusal("{\"a\": 1} x"), R"(expected JSON, got "x" at line 1, column 10)");
  EXPECT_EQ(refusal("[1 2]"), R"(expected JSON, got "2" at line 1, column 4)");
  EXPECT_EQ(refusal("[NaN]"), R"(expected JSON, got "N" at line 1, column 2)");
  EXPECT_EQ(refusal("[1e999]"),
            "expected JSON, got a number beyond the range of f64 at line 1, column 6");
  EXPECT_EQ(refusal("\"\xff\""), R"(expected JSON, got "\xff" at line 1, column 2)");
  EXPECT_EQ(refusal(std::string("1\0 2", 4)), "expected JSON, got a zero byte at line 1, column 2");
}

TEST(Json, RefusesWhatIsSaidTwice) {
  EXPECT_EQ(refusal(R"({"a":1,"b":2,"a":1})"), R"(expected one "a", got two)");
  EXPECT_EQ(refusal(R"([{"x":{"k":1,"k":2}}])"), R"(expected one "k", got two)");
  EXPECT_EQ(refusal("{\"n\\n\":1,\"n\\n\":2}"), R"(expected one "n\x0a", got two)");
  parse_json(R"([{"a":1},{"a":{"a":2}}])", "f");  // each in an object of its own
}

TEST(Json, RefusesWhatExhaustsAReader) {
  const auto nested = [](std::size_t depth, const char* open) {
    std::string text;
    for (std::size_t i = 0; i < depth; ++i) text += open;
    return text;
  };
  const std::string deep = "expected at most 64 levels of lists and objects, got more";
  EXPECT_EQ(refusal(nested(200'000, "[")), deep);
  EXPECT_EQ(refusal(nested(200'000, "{\"a\":")), deep);
  EXPECT_EQ(refusal(nested(65, "[") + std::string(65, ']')), deep);
  parse_json(nested(64, "[") + std::string(64, ']'), "f");

  std::string names = "{";
  for (int i = 0; i < 257; ++i) names += fmt::format("{}\"{}\":0", i == 0 ? "" : ",", i);
  EXPECT_EQ(refusal(names + "}"), "expected at most 256 names in an object, got more");

  std::string values = "[0";
  for (int i = 1; i < 1 << 22; ++i) values += ",0";  // and the list itself
  EXPECT_EQ(refusal(values + "]"), "expected at most 4194304 values, got more");
  EXPECT_EQ(refusal(std::string((64 << 20) + 1, ' ')),
            "expected at most 67108864 bytes, got 67108865");
}

TEST(Json, FilesHoldObjects) {
  const harness::TemporaryFolder folder;
  const std::string path = folder / "f.json";
  std::ofstream(path) << "{\"a\": 3}";
  EXPECT_EQ(field<std::int64_t>(read_json(path), "a", path), 3);
  std::ofstream(path) << "[]";
  EXPECT_EQ(error_of([&] { read_json(path); }),
            path + ": expected a JSON object, got an empty list");
  EXPECT_EQ(error_of([&] { read_json(folder / "none"); }),
            "cannot read " + (folder / "none") + ": No such file or directory");
}

TEST(Json, FieldsHaveTypesAndRanges) {
  const Json json = parse_json(
      R"({"n": 3, "x": 0.5, "t": "a\nb", "b": true, "null": null, "list": [1], "object": {},
          "max": 9223372036854775807, "beyond": 9223372036854775808, "minus": -1})",
      "f");
  EXPECT_EQ(field<std::int64_t>(json, "n", "f"), 3);
  EXPECT_EQ(field<std::int64_t>(json, "n", "f", 3, 3), 3);
  EXPECT_EQ(field<std::int64_t>(json, "max", "f"), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(field<double>(json, "x", "f", 0.5), 0.5);
  EXPECT_EQ(field<double>(json, "n", "f"), 3);
  EXPECT_EQ(field<std::string>(json, "t", "f"), "a\nb");
  EXPECT_EQ(field<bool>(json, "b", "f"), true);
  EXPECT_EQ(list_member(json, "list", "f").size(), 1u);
  EXPECT_TRUE(object_member(json, "object", "f").empty());

  const auto whole = [&](const char* name) {
    return error_of([&] { field<std::int64_t>(json, name, "f", 1, 2); });
  };
  EXPECT_EQ(whole("none"), R"(f: has no "none")");
  EXPECT_EQ(whole("n"), R"(f: "n" is 3, expected a whole number from 1 to 2)");
  EXPECT_EQ(whole("minus"), R"(f: "minus" is -1, expected a whole number from 1 to 2)");
  EXPECT_EQ(whole("x"), R"(f: "x" is 0.5, expected a whole number from 1 to 2)");
  EXPECT_EQ(whole("t"), R"(f: "t" is "a\x0ab", expected a whole number from 1 to 2)");
  EXPECT_EQ(whole("b"), R"(f: "b" is true, expected a whole number from 1 to 2)");
  EXPECT_EQ(whole("null"), R"(f: "null" is null, expected a whole number from 1 to 2)");
  EXPECT_EQ(whole("list"), R"(f: "list" is a list, expected a whole number from 1 to 2)");
  EXPECT_EQ(whole("object"), R"(f: "object" is an object, expected a whole number from 1 to 2)");
  EXPECT_EQ(error_of([&] { field<std::int64_t>(json, "beyond", "f"); }),
            R"(f: "beyond" is 9223372036854775808, expected a whole number)");
  EXPECT_EQ(error_of([&] { field<std::int64_t>(json, "n", "f", 4); }),
            R"(f: "n" is 3, expected a whole number of at least 4)");
  EXPECT_EQ(error_of([&] { field<double>(json, "b", "f"); }),
            R"(f: "b" is true, expected a number)");
  EXPECT_EQ(error_of([&] { field<double>(json, "x", "f", 1.0, 2.0); }),
            R"(f: "x" is 0.5, expected a number from 1 to 2)");
  EXPECT_EQ(error_of([&] { field<std::string>(json, "n", "f"); }),
            R"(f: "n" is 3, expected a text)");
  EXPECT_EQ(error_of([&] { field<bool>(json, "n", "f"); }),
            R"(f: "n" is 3, expected true or false)");
  EXPECT_EQ(error_of([&] { list_member(json, "n", "f"); }), R"(f: "n" is 3, expected a list)");
  EXPECT_EQ(error_of([&] { object_member(json, "n", "f"); }), R"(f: "n" is 3, expected an object)");
  EXPECT_EQ(error_of([&] { field<double>(json["list"], "n", "f"); }),
            "f is a list, expected an object");
}

TEST(Json, WritesNamesThatAreNotUtf8) {
  Json json;
  json["preset"] = "a\xff.json";
  EXPECT_EQ(json_text(json), "{\"preset\":\"a\xef\xbf\xbd.json\"}");
}

}  // namespace
}  // namespace sidechannel
