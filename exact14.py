import torch,numpy as np,pickle,sys
from pathlib import Path
from im2sp.lab.models.unit_vocoder import load_vocoder
from im2sp.lab.data.pronunciations import Pronunciations
from im2sp.speech.units import remove_repeats
torch.set_num_threads(1)
P=Pronunciations.load(Path('/root/r13/mended.table')); W=pickle.load(open('/root/im2sp-runs/words11.pkl','rb')); T=pickle.load(open('/root/im2sp-runs/r12texts.pkl','rb'))[:400]
dev=pickle.load(open('/root/dev14.pkl','rb'))
for f in sys.argv[1:]:
    v,d=load_vocoder(Path(f))
    for name,S in (('regular',[P.say(W[t]) for t in T]),('dev',[u for _,_,u in dev])):
        ok=[];tot=[]
        for u in S:
            if u is None: continue
            r,n=remove_repeats(u)
            with torch.inference_mode(): m=(d(torch.from_numpy(r.astype(np.int64))[None])[0].exp()-1).numpy()
            k=m.round().clip(1); ok.append(np.mean(k==n)); tot.append((n.sum(),k.sum()))
        print(f,name,np.mean(ok),np.sum(tot,0))
