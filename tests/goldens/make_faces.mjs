// Writes faces.json: what face-api itself makes of one picture, for the network that we read from its package.
//
// In a folder of its own: `npm install @tensorflow/tfjs@4.22.0 @vladmandic/face-api@1.7.15`, then from there
// `node make_faces.mjs > faces.json`. Not run in CI.
import fs from "fs";
import { createRequire } from "module";

const require = createRequire(process.cwd() + "/");
const tf = require("@tensorflow/tfjs");
const root = "node_modules/@vladmandic/face-api/";
const code = fs.readFileSync(root + "dist/face-api.node.js", "utf8");
fs.writeFileSync("face-api.cjs", code.replaceAll("@tensorflow/tfjs-node", "@tensorflow/tfjs"));
const faceapi = require("./face-api.cjs");

await tf.setBackend("cpu");
faceapi.env.monkeyPatch({ Canvas: class {}, Image: class {}, ImageData: class {} });
await faceapi.nets.faceRecognitionNet.loadFromDisk(root + "model");
const side = 150;
const data = new Int32Array(side * side * 3);
for (let y = 0; y < side; y++)
  for (let x = 0; x < side; x++)
    for (let c = 0; c < 3; c++)
      data[(y * side + x) * 3 + c] = (7 * y + 13 * x * (c + 1) + y * x) % 256;
const picture = tf.tensor3d(data, [side, side, 3], "int32");
const found = await faceapi.nets.faceRecognitionNet.computeFaceDescriptor(picture);
console.log(JSON.stringify({ versions: `tfjs ${tf.version.tfjs}, face-api 1.7.15`, descriptor: Array.from(found) }));
